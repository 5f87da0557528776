"""What mutants of the fence have shown not to be tested."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import psycopg
import pydantic
import pytest
import sqlalchemy

from temporal_saga import fence
from temporal_saga.errors import Fenced, KeyMisuse
from temporal_saga.fence._payload import payload_hash
from tests.fence.support import Bank, Database, environment, new_key, transaction
from tests.fence.test_once_async import connect

NO_TIME = timedelta(0)
AGES: dict[str, Any] = {"older_than": NO_TIME, "retry_horizon": NO_TIME}
WRONG: dict[str, Any] = {"dialect": "mysql"}


def says(text: str) -> str:
    return f"^(FenceMisuse: )?{re.escape(text)}$"


WRONG_SAYS = says(
    "dialect='mysql': MySQL is not supported: the fence supports SQLite and PostgreSQL. In another database use a "
    'unique constraint or an upsert (see "Or without the fence" in docs/fence.md)'
)


def test_each_function_heeds_the_dialect_that_it_is_told(sqlite: Database) -> None:
    connection = sqlite.connect()
    calls: list[Callable[[], Any]] = [
        lambda: fence.once(connection, lambda: None, payload=1, **WRONG),
        lambda: fence.create_table(connection, **WRONG),
        lambda: fence.purge(connection, **AGES, **WRONG),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=WRONG_SAYS):
            environment("do", new_key()).run(call)


async def test_each_asyncio_function_heeds_the_dialect_that_it_is_told(tmp_path: Path) -> None:
    async with aiosqlite.connect(tmp_path / "bank.db") as connection:
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: fence.once_async(connection, connection.commit, payload=1, **WRONG),
            lambda: fence.create_table_async(connection, **WRONG),
            lambda: fence.purge_async(connection, **AGES, **WRONG),
        ]
        for call in calls:

            async def attempt(call: Callable[[], Awaitable[Any]] = call) -> None:
                await call()

            with pytest.raises(ValueError, match=WRONG_SAYS):
                await environment("do", new_key()).run(attempt)


async def test_a_purge_in_batches_with_asyncio(database: Database) -> None:
    bank = Bank(database)
    for _ in range(3):
        bank.take(new_key())
    before = "now() - interval '1 day'" if database.dialect == "postgresql" else "datetime('now', '-1 day')"
    with transaction(database.connect()) as connection:
        connection.cursor().execute(f"UPDATE temporal_saga_fence SET updated_at = {before}")
    async with connect(database) as connection:
        assert await fence.purge_async(connection, **AGES, limit=2) == 2
        await connection.commit()
        assert await fence.purge_async(connection, **AGES, limit=2) == 1


def test_what_the_errors_say(database: Database) -> None:
    bank, key = Bank(database), new_key()

    async def awaited() -> None:
        pass

    with pytest.raises(
        TypeError, match=says("an effect that is awaited needs `await once_async(...)` and an asyncio connection")
    ):
        bank.run("do", key, lambda _: awaited(), 1)
    with pytest.raises(
        TypeError,
        match=says(
            "the result of pay, object, cannot be kept for a repeat: return what JSON can hold, or give encode= and "
            "decode="
        ),
    ):
        bank.run("do", key, lambda _: object(), 1)

    def twice() -> None:
        with transaction(database.connect()) as connection:
            for _ in range(2):
                fence.once(connection, lambda: None, payload=1)

    with pytest.raises(
        RuntimeError,
        match=says(
            "a second effect in one attempt of pay would be taken for a repeat of the first: make them one effect or "
            "two steps, or give the second a key= (in a test, each attempt needs an ActivityEnvironment of its own)"
        ),
    ):
        environment("do", key).run(twice)
    with pytest.raises(
        ValueError,
        match=says(
            "older_than=0:00:00 is shorter than retry_horizon=1 day, 0:00:00: without its record a repeat would run "
            "the effect again, an undo would find nothing to undo, and a late step would not be refused"
        ),
    ):
        fence.purge(database.connect(), older_than=NO_TIME, retry_horizon=timedelta(days=1))


def test_what_the_refusals_say(database: Database) -> None:
    bank, key = Bank(database), new_key()
    bank.give_back(key)
    with pytest.raises(Fenced, match=says(f"Fenced: pay ({key}) came after its undo: nothing was done")):
        bank.take(key)
    applied = new_key()
    bank.take(applied)
    with pytest.raises(KeyMisuse, match=says(f"KeyMisuse: pay ({applied}) was called before with another payload")):
        bank.take(applied, 11)


def test_what_is_said_of_autocommit(database: Database) -> None:
    options: dict[str, Any] = {"isolation_level": None} if database.dialect == "sqlite" else {"autocommit": True}
    fix = {
        "sqlite": "`BEGIN` first, or open the connection without isolation_level=None and autocommit=True",
        "postgresql": "`with connection.transaction():` around it, or autocommit=False",
    }
    connection = database.connect(**options)
    with pytest.raises(
        RuntimeError,
        match=says(
            "the connection is in autocommit mode, so effect and record would not commit together: use "
            + fix[database.dialect]
        ),
    ):
        environment("do", new_key()).run(lambda: fence.once(connection, lambda: None, payload=1))


def test_a_transaction_that_is_aborted_is_no_autocommit(postgresql: Database) -> None:
    """The database's own error tells what is wrong."""
    connection = postgresql.connect(autocommit=True)
    connection.execute("BEGIN")
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM nothing")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        environment("do", new_key()).run(lambda: fence.once(connection, lambda: None, payload=1))


def test_an_effect_that_closes_its_connection(postgresql: Database) -> None:
    connection = postgresql.connect()
    with pytest.raises(
        RuntimeError,
        match=says("the effect of pay ended the transaction: leave commit and rollback to the caller of once"),
    ):
        environment("do", new_key()).run(lambda: fence.once(connection, connection.close, payload=1))


async def test_what_the_errors_of_asyncio_say(database: Database) -> None:
    async with connect(database) as connection:

        async def attempt() -> None:
            await fence.once_async(connection, lambda: 1, payload=1)  # type: ignore[arg-type, return-value]

        with pytest.raises(
            TypeError, match=says("an effect of `once_async` must return an awaitable: make it an `async def`")
        ):
            await environment("do", new_key()).run(attempt)


async def test_what_is_said_of_the_wrong_connection(sqlite: Database, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=says("an asyncio connection needs the function whose name ends in _async")):
        fence.create_table(aiosqlite.connect(tmp_path / "bank.db"))
    with pytest.raises(
        TypeError,
        match=says("a blocking connection needs the function without _async, in an activity that runs in threads"),
    ):
        await fence.create_table_async(sqlite.connect())
    with (
        sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.NullPool).connect() as connection,
        pytest.raises(TypeError, match=r"^sqlalchemy\.engine\.base\.Connection is not a connection that the fence can"),
    ):
        fence.create_table(connection)  # type: ignore[arg-type]


def test_what_is_said_of_a_connection_that_nobody_knows() -> None:
    class Unknown:
        def cursor(self) -> None: ...

    with pytest.raises(TypeError, match=r'[^X]or say dialect="sqlite" or dialect="postgresql"$'):
        fence.create_table(Unknown())


def test_a_pydantic_model_is_hashed_as_its_json() -> None:
    class Wait(pydantic.BaseModel):
        time: timedelta

    assert payload_hash(Wait(time=timedelta(days=1))) == payload_hash({"time": "P1D"})
