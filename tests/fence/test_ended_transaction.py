"""An effect that ends the transaction of its record is told so, before it is taken for done or is done again.

Each way to end it, and each way to go on, with every kind of connection, in a step and in whatever else is fenced.
"""

from __future__ import annotations

import inspect
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import aiosqlite
import psycopg
import pytest
import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from temporal_saga import fence
from temporal_saga.errors import Declined, FenceMisuse
from temporal_saga.fence._database import run_blocking
from tests.fence.support import Bank, Database, environment, new_key, tells, transaction

PHASES = ["do", "undo", "push", "key"]
Effect = Callable[["Hand"], Awaitable[Any]]


class Hand:
    """What an effect writes with: any connection or session, blocking or not."""

    def __init__(self, of: Any) -> None:
        self._of = of
        self.is_session = isinstance(of, (orm.Session, sqlalchemy_asyncio.AsyncSession))
        self.count = 0
        """How many times the effect has run."""

    async def sql(self, statement: str) -> Any:
        return await _settled(self._of.execute(sqlalchemy.text(statement) if self.is_session else statement))

    async def add(self, amount: int) -> None:
        await self.sql(f"UPDATE account SET balance = balance + {amount}")

    async def commit(self) -> None:
        await _settled(self._of.commit())

    async def rollback(self) -> None:
        await _settled(self._of.rollback())


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


# How an effect ends the transaction


async def commits(hand: Hand) -> None:
    await hand.add(-1)
    await hand.commit()


async def commits_in_sql(hand: Hand) -> None:
    await hand.add(-1)
    await hand.sql("COMMIT")


async def commits_and_goes_on(hand: Hand) -> None:
    await commits(hand)
    await hand.add(-2)


async def rolls_back_and_goes_on(hand: Hand) -> None:
    await hand.add(-1)
    await hand.rollback()
    await hand.add(-2)


# How it goes on


async def value(hand: Hand) -> Any:
    return 7


async def none(hand: Hand) -> Any:
    return None


async def error(hand: Hand) -> Any:
    raise Declined("no")


async def database_error(hand: Hand) -> Any:
    await hand.sql("UPDATE account SET balance = -1")


@asynccontextmanager
async def lent(database: Database, how: str) -> AsyncIterator[tuple[Any, Any, bool]]:
    """Give what an effect writes with, the connection for the fence, and whether both are asyncio's."""
    if how == "connection":
        of = database.connect()
        yield of, of, False
    elif how == "another driver's connection":
        of = database.connect()
        yield of, Other(of), False
    elif how == "asyncio connection":
        asyncio_connect: Any = (
            aiosqlite.connect if database.dialect == "sqlite" else psycopg.AsyncConnection[Any].connect
        )
        of = await asyncio_connect(database.where)
        try:
            yield of, of, True
        finally:
            await of.close()
    elif how == "session":
        url = "sqlite://" if database.dialect == "sqlite" else "postgresql+psycopg://"
        engine = sqlalchemy.create_engine(url, creator=database.connect, poolclass=sqlalchemy.QueuePool)
        try:
            with orm.Session(engine) as session:
                yield session, session.connection().connection, False
        finally:
            engine.dispose()
    else:
        assert how == "asyncio session"

        async def creator() -> Any:
            return await psycopg.AsyncConnection.connect(database.where)

        asyncio_engine = (
            sqlalchemy_asyncio.create_async_engine(f"sqlite+aiosqlite:///{database.where}")
            if database.dialect == "sqlite"
            else sqlalchemy_asyncio.create_async_engine("postgresql+psycopg://", async_creator=creator)
        )
        try:
            async with sqlalchemy_asyncio.AsyncSession(asyncio_engine) as asyncio_session:
                yield asyncio_session, await (await asyncio_session.connection()).get_raw_connection(), True
        finally:
            await asyncio_engine.dispose()


class Other:
    """A connection of a driver that the fence does not know, and that tells nothing of its transaction."""

    def __init__(self, connection: Any) -> None:
        self.cursor = connection.cursor
        self.commit = connection.commit


CONNECTIONS = ["connection", "another driver's connection", "asyncio connection", "session", "asyncio session"]


async def attempt(database: Database, how: str, phase: str, key: str, effect: Effect, *, commit: bool = False) -> Any:
    """Run an attempt, which rolls back on an error; with `commit`, it commits all the same."""
    options: dict[str, Any] = {"payload": 1, "dialect": database.dialect, "guard": False}
    if phase == "key":
        options["key"] = key

    async def run() -> Any:
        async with lent(database, how) as (of, connection, is_asyncio):
            hand = Hand(of)
            try:
                if is_asyncio:
                    result = await fence.once_async(connection, lambda: effect(hand), **options)
                else:
                    result = fence.once(connection, lambda: run_blocking(effect(hand)), **options)
            except BaseException:
                with suppress(psycopg.OperationalError):
                    await (hand.commit() if commit else hand.rollback())
                raise
            await hand.commit()
            return result

    return await environment("do" if phase == "key" else phase, key).run(run)


def applied(database: Database, phase: str, key: str) -> None:
    """Give an undo something to undo, which leaves the account as it was."""
    if phase == "undo":
        Bank(database).run("do", key, lambda connection: None, None)


ERRORS = (Declined, sqlite3.IntegrityError, psycopg.IntegrityError, sqlalchemy.exc.IntegrityError)


@pytest.mark.parametrize("how", CONNECTIONS)
@pytest.mark.parametrize("goes_on", [value, none, error, database_error])
@pytest.mark.parametrize("ends", [commits, commits_in_sql, commits_and_goes_on])
async def test_an_effect_that_commits_fails_for_good(
    database: Database, how: str, ends: Effect, goes_on: Effect
) -> None:
    """In the attempt that commits, or in the next: none is taken for done, and none does it again."""
    for phase in PHASES:
        key, before, runs = new_key(), database.balance, list[str]()
        applied(database, phase, key)

        async def effect(hand: Hand) -> Any:
            runs.append(phase)  # noqa: B023
            await ends(hand)
            return await goes_on(hand)

        if is_unseen(database, how, ends, goes_on):
            with pytest.raises(ERRORS):
                await attempt(database, how, phase, key, effect)
        elif is_sqlite_s_limit(database, how, ends):
            result = await attempt(database, how, phase, key, effect)
            assert result == await attempt(database, how, phase, key, effect) == await goes_on(None)  # type: ignore[arg-type]
            assert database.balance == before - (3 if ends is commits_and_goes_on else 1)
            continue
        else:
            with tells(FenceMisuse, "ended the transaction: leave commit and rollback to the") as told:
                await attempt(database, how, phase, key, effect)
            assert told.value.non_retryable
        for _ in range(2):
            with tells(FenceMisuse, "ended the transaction in an earlier attempt"):
                await attempt(database, how, phase, key, effect)
        assert runs == [phase]
        assert database.balance == before - 1


def is_unseen(database: Database, how: str, ends: Effect, goes_on: Effect) -> bool:
    """Whether the attempt that commits raises the effect's own error: it cannot look for the record by then."""
    within = ends is commits_and_goes_on or goes_on is database_error
    if how.endswith("session") and ends is not commits_in_sql:
        return False  # the session has given the connection back to the pool
    if database.dialect == "postgresql":
        return goes_on is database_error  # which aborts the new transaction
    if goes_on not in (error, database_error):
        return False
    if how == "another driver's connection":
        return True  # it does not tell whether there is a transaction, so the claim is taken back in a new one
    return within


def is_sqlite_s_limit(database: Database, how: str, ends: Effect) -> bool:
    """Whether the record is finished in the transaction that came after the commit, and all is well in the end."""
    if database.dialect == "postgresql":
        return False
    if how == "another driver's connection":
        return True
    return ends is commits_and_goes_on and not how.endswith("session")


@pytest.mark.parametrize("how", CONNECTIONS)
@pytest.mark.parametrize("goes_on", [value, none])
async def test_an_effect_that_rolls_back_and_goes_on_fails_for_good(
    database: Database, how: str, goes_on: Effect
) -> None:
    """It may have committed in between, without a record: each attempt would find no trace of the one before it."""
    for phase in PHASES:
        key = new_key()
        applied(database, phase, key)

        async def effect(hand: Hand) -> Any:
            await rolls_back_and_goes_on(hand)
            return await goes_on(hand)

        with tells(FenceMisuse, "ended the transaction: leave commit and rollback to the caller"):
            await attempt(database, how, phase, key, effect)
        assert database.balance == 100


@pytest.mark.parametrize("how", ["connection", "another driver's connection", "asyncio connection"])
@pytest.mark.parametrize("ends", [Hand.rollback, rolls_back_and_goes_on])
async def test_an_effect_that_rolls_back_and_raises_may_be_tried_again(
    database: Database, how: str, ends: Effect
) -> None:
    """Nothing of it stands, and its error, a business answer or a lost connection, is what the caller has to know."""
    for phase in PHASES:
        key, before = new_key(), database.balance
        applied(database, phase, key)

        async def effect(hand: Hand) -> Any:
            await ends(hand)
            raise Declined("no")

        async def honest(hand: Hand) -> int:
            await hand.add(-1)
            return 7

        with pytest.raises(Declined):
            await attempt(database, how, phase, key, effect)
        assert await attempt(database, how, phase, key, honest) == 7
        assert database.balance == before - 1


async def test_a_flush_that_fails_may_be_tried_again(database: Database) -> None:
    """SQLAlchemy rolls back by itself then; the session has the connection still."""
    for how in ("session", "asyncio session"):
        key = new_key()

        async def effect(hand: Hand) -> None:
            inner: Any = hand._of if isinstance(hand._of, orm.Session) else hand._of.sync_session
            inner.add(Row(balance=-1))
            await _settled(hand._of.flush())

        with pytest.raises(sqlalchemy.exc.IntegrityError):
            await attempt(database, how, "do", key, effect)
        assert await attempt(database, how, "do", key, value) == 7


class Base(orm.DeclarativeBase): ...


class Row(Base):
    __tablename__ = "account"
    balance: orm.Mapped[int] = orm.mapped_column(primary_key=True)


@pytest.mark.parametrize("how", ["session", "asyncio session"])
@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_a_session_that_gives_its_connection_back_fails_for_good(database: Database, how: str, ends: str) -> None:
    """Whoever has the connection now is not to be disturbed, so nobody can look which of the two it was."""

    async def effect(hand: Hand) -> None:
        await getattr(hand, ends)()
        raise Declined("no")

    for phase in PHASES:
        key = new_key()
        applied(database, phase, key)
        with tells(FenceMisuse, "ended the transaction") as told:
            await attempt(database, how, phase, key, effect)
        assert isinstance(told.value.__cause__, Declined)


@pytest.mark.parametrize("how", ["connection", "asyncio connection"])
async def test_an_error_that_the_caller_swallows_after_a_commit(database: Database, how: str) -> None:
    """The record that the effect has committed stands, on PostgreSQL; SQLite cannot tell whose transaction it is."""
    for phase in PHASES:
        key = new_key()
        applied(database, phase, key)

        async def effect(hand: Hand) -> Any:
            await commits_and_goes_on(hand)
            raise Declined("no")

        if database.dialect == "sqlite":
            with pytest.raises(Declined):
                await attempt(database, how, phase, key, effect, commit=True)
            assert await attempt(database, how, phase, key, value) == 7  # done again: the limit that the page names
            continue
        for _ in range(2):
            with tells(FenceMisuse, "ended the transaction"):
                await attempt(database, how, phase, key, effect, commit=True)


async def test_a_process_that_dies_after_a_commit_of_its_effect(database: Database) -> None:
    key, connection = new_key(), database.connect()

    class Died(BaseException): ...

    def effect() -> None:
        connection.commit()
        raise Died  # as far as the fence and the caller are concerned

    with pytest.raises(Died):
        environment("do", key).run(lambda: fence.once(connection, effect, payload=1))
    connection.close()
    with tells(FenceMisuse, "in an earlier attempt: leave commit and rollback to the caller of once"):
        await attempt(database, "connection", "do", key, value)


def test_the_undo_of_a_step_that_committed_gives_its_money_back(database: Database) -> None:
    bank, key = Bank(database), new_key()

    def commits_then_declines(connection: Any) -> None:
        bank._add(connection, -10)
        connection.commit()
        raise Declined("no")

    with tells(FenceMisuse, "ended the transaction"):
        bank.run("do", key, commits_then_declines, 10)
    assert database.state == "applying"
    assert bank.give_back(key) == 100
    assert bank.give_back(key) == 100
    assert database.state == "undone"


def test_an_undo_between_the_two_transactions_of_a_step(database: Database) -> None:
    """A step whose record was taken over fails, and does not report that it applied."""
    bank, key = Bank(database), new_key()

    def effect(connection: Any) -> int:
        bank._add(connection, -10)
        connection.commit()
        assert bank.give_back(key) == 100
        return bank._add(connection, -10)

    with tells(FenceMisuse, "ended the transaction"):
        bank.run("do", key, effect, 10)
    assert (database.state, database.balance) == ("undone", 100)


def test_a_commit_in_a_pipeline_is_told_by_the_next_attempt(postgresql: Database) -> None:
    """Its answers come late: nothing is known when the effect returns."""
    connection, key, bank = postgresql.connect(), new_key(), Bank(postgresql)

    def effect() -> int:
        connection.execute("UPDATE account SET balance = balance - 1")
        connection.commit()
        connection.execute("UPDATE account SET balance = balance - 2")
        return 1

    def first() -> None:
        with connection.pipeline():
            fence.once(connection, effect, payload=1)
        connection.commit()

    environment("do", key).run(first)
    with tells(FenceMisuse, "in an earlier attempt"):
        bank.run("do", key, lambda connection: 1, 1)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3's autocommit= is new in Python 3.12")
def test_a_connection_of_sqlite_that_always_has_a_transaction(sqlite: Database) -> None:
    """It begins the next one by itself, so that each commit is one that goes on."""
    bank = Bank(sqlite)
    connection = sqlite.connect(autocommit=False)

    def run(key: str, ends: Callable[[], int]) -> Any:
        def effect() -> int:
            bank._add(connection, -1)
            connection.commit()
            return ends()

        with transaction(connection):
            return environment("do", key).run(lambda: fence.once(connection, effect, payload=1))

    def fail() -> int:
        raise Declined("no")

    key = new_key()
    assert [run(key, lambda: 7), run(key, lambda: 7)] == [7, 7]
    key = new_key()
    with tells(Declined, "no"):
        run(key, fail)
    with tells(FenceMisuse, "in an earlier attempt"):
        run(key, fail)
    connection.close()
    assert sqlite.balance == 98


# What is not misuse


@contextmanager
def savepoint(connection: Any) -> Any:
    connection.cursor().execute("SAVEPOINT one")
    yield
    connection.cursor().execute("RELEASE SAVEPOINT one")


@pytest.mark.parametrize("where", ["in the effect", "around it"])
def test_savepoints_do_not_end_the_transaction(database: Database, where: str) -> None:
    bank = Bank(database)
    for phase in ("do", "undo", "push"):
        key = new_key()
        applied(database, phase, key)

        def effect(connection: Any) -> int:
            with savepoint(connection):
                bank._add(connection, -1)
            cursor = connection.cursor()
            cursor.execute("SAVEPOINT two")
            bank._add(connection, -1)
            cursor.execute("ROLLBACK TO SAVEPOINT two")
            return 7

        def run(effect: Callable[[Any], int] = effect) -> Any:
            with transaction(database.connect()) as connection:
                connection.cursor().execute("BEGIN" if database.dialect == "sqlite" else "SELECT 1")
                if where == "in the effect":
                    return fence.once(connection, lambda: effect(connection), payload=1)
                with savepoint(connection):
                    return fence.once(connection, lambda: bank._add(connection, -1), payload=1)

        first = environment(phase, key).run(run)
        assert environment(phase, key).run(run) == first
    assert database.balance == 97


def test_a_savepoint_of_a_driver_s_own(postgresql: Database) -> None:
    bank = Bank(postgresql)

    def effect(connection: Any) -> int:
        with connection.transaction():
            return bank._add(connection, -1)

    assert bank.run("do", new_key(), effect, None) == 99
