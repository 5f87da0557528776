"""What the tests of the fence share: a database with an account in it, and activities that run for a saga's steps."""

from __future__ import annotations

import dataclasses
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import psycopg
from temporalio.testing import ActivityEnvironment

from temporal_saga import fence

T = TypeVar("T")


def new_key() -> str:
    return str(uuid.uuid4())


def environment(phase: str, key: str, *, attempt: int = 1) -> ActivityEnvironment:
    """Return where an attempt of a saga's activity runs: its id is of the form that the library gives."""
    found = ActivityEnvironment()
    found.info = dataclasses.replace(found.info, activity_id=f"pay:{phase}:{key}", attempt=attempt)
    return found


@contextmanager
def tells(kind: type[Exception], match: str) -> Iterator[Any]:
    """Do what `pytest.raises` does, and call another error a failure as well: one that mutants can count on."""
    told = SimpleNamespace(value=None)
    try:
        yield told
    except Exception as error:
        told.value = error
    assert told.value is not None, "nothing was told"
    assert isinstance(told.value, kind), repr(told.value)
    assert re.search(match, str(told.value)), str(told.value)


class Database:
    """A database of a test's own, with one account."""

    def __init__(self, dialect: str, where: str) -> None:
        self.dialect = dialect
        self.where = where
        self._open: list[Any] = []

    def connect(self, **options: Any) -> Any:
        """Open a connection, which is closed after the test."""
        if self.dialect == "sqlite":
            options = {"check_same_thread": False, "timeout": 30, **options}
            connection: Any = sqlite3.connect(self.where, **options)
        else:
            connection = psycopg.connect(self.where, **options)
        self._open.append(connection)
        return connection

    def close(self) -> None:
        for connection in self._open:
            connection.close()

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with transaction(self.connect()) as connection:
            rows: list[tuple[Any, ...]] = connection.cursor().execute(statement).fetchall()
            return rows

    @property
    def balance(self) -> int:
        return int(self.query("SELECT balance FROM account")[0][0])

    @property
    def state(self) -> str | None:
        """The state of the one record; None if there is none."""
        rows = self.query("SELECT state FROM temporal_saga_fence")
        assert len(rows) <= 1, rows
        return rows[0][0] if rows else None


@contextmanager
def transaction(connection: Any) -> Iterator[Any]:
    """Commit, or roll back and raise."""
    try:
        yield connection
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


@contextmanager
def sqlite_database(directory: Path) -> Iterator[Database]:
    database = Database("sqlite", str(directory / "bank.db"))
    with _filled(database):
        yield database


@contextmanager
def postgresql_database(url: str, isolation: str = "read committed") -> Iterator[Database]:
    schema = f"fence_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        level = isolation.replace(" ", "\\ ")
        where = psycopg.conninfo.make_conninfo(
            url, options=f"-csearch_path={schema} -cdefault_transaction_isolation={level}"
        )
        with _filled(Database("postgresql", where)) as database:
            yield database
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


@contextmanager
def _filled(database: Database) -> Iterator[Database]:
    with transaction(database.connect()) as connection:
        fence.create_table(connection)
        connection.cursor().execute("CREATE TABLE account (balance INTEGER NOT NULL CHECK (balance >= 0))")
        connection.cursor().execute("INSERT INTO account VALUES (100)")
    try:
        yield database
    finally:
        database.close()


class Bank:
    """A step that takes money and its undo, each in a transaction, as activities do it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.effects: list[str] = []
        """The effects that ran, whatever became of their transactions."""

    def take(self, key: str, amount: int = 10, *, phase: str = "do", **options: Any) -> Any:
        return self.run(phase, key, lambda connection: self._add(connection, -amount), amount, **options)

    def give_back(self, key: str, amount: int = 10, *, phase: str = "undo", **options: Any) -> Any:
        return self.run(phase, key, lambda connection: self._add(connection, amount), amount, **options)

    def take_unfenced(self, amount: int = 10) -> None:
        with transaction(self.database.connect()) as connection:
            self._add(connection, -amount)

    def run(self, phase: str, key: str, effect: Callable[[Any], Any], payload: object, **options: Any) -> Any:
        """Run one attempt of an activity: the effect, in a transaction and the fence."""

        def attempt() -> Any:
            with transaction(self.database.connect()) as connection:
                return fence.once(connection, lambda: effect(connection), payload=payload, **options)

        return environment(phase, key).run(attempt)

    def _add(self, connection: Any, amount: int) -> int:
        self.effects.append("take" if amount < 0 else "give back")
        statement = f"UPDATE account SET balance = balance + {amount} RETURNING balance"
        return int(connection.cursor().execute(statement).fetchall()[0][0])
