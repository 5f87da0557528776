"""The database of a race: a small bank, and connections whose every statement is told to someone before it is sent."""

from __future__ import annotations

import inspect
import os
import sqlite3
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import aiosqlite
import psycopg

from temporal_saga import fence

from .fences import Connection

Tell = Callable[[str], None]

AMOUNT = 10

# Of its own, since the database may be someone's, and several test runs may share it.
SCHEMA = f"temporal_saga_race_{os.getpid()}"

TABLES = (
    "CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL)",
    "INSERT INTO accounts VALUES ('customer', 100), ('in transit', 0)",
    "CREATE TABLE moves (key TEXT NOT NULL, phase TEXT NOT NULL)",  # no constraint: what happens twice is seen twice
    "CREATE INDEX moves_by_key ON moves (key)",
    "CREATE TABLE by_hand (key TEXT PRIMARY KEY, state TEXT NOT NULL)",
)

Style = Literal["implicit", "explicit", "read first"]
STYLES: tuple[Style, ...] = ("implicit", "explicit", "read first")
"""How a transaction begins: by the driver, by a BEGIN of the user's, and either with a look at the account in front."""


def with_schema(url: str) -> str:
    """Return the URL with a schema of its own in the search path."""
    return psycopg.conninfo.make_conninfo(url, options=f"-c search_path={SCHEMA}")


@dataclass(frozen=True)
class Place:
    """Where a race takes place."""

    dialect: Literal["sqlite", "postgresql"]
    address: str
    isolation: str = ""
    """PostgreSQL's isolation level, as in BEGIN ISOLATION LEVEL."""
    asyncio: bool = False
    """Whether the players use asyncio connections."""

    @contextmanager
    def built(self) -> Generator[Connection, None, None]:
        """Create the tables, and remove them in the end."""
        with self.connect() as connection:
            if self.dialect == "sqlite":
                connection.execute("PRAGMA journal_mode = WAL")
            else:
                connection.execute(f"CREATE SCHEMA {SCHEMA}")
            for statement in TABLES:
                connection.execute(statement)
            fence.create_table(connection)
            try:
                yield connection
            finally:
                if self.dialect == "postgresql":
                    connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")

    @contextmanager
    def connect(self) -> Generator[Connection, None, None]:
        """Connect in autocommit, for whoever looks on."""
        connection: Connection
        if self.dialect == "sqlite":
            connection = sqlite3.connect(self.address, timeout=20, isolation_level=None)
        else:
            connection = psycopg.connect(self.address, autocommit=True)
        try:
            yield connection
        finally:
            connection.close()


class Session:
    """A connection of a player's, and the transactions that it makes.

    Written once, as coroutines: with a blocking connection they never wait, and `finish` runs them.
    """

    def __init__(self, place: Place, style: Style) -> None:
        self._place = place
        self._style = style
        self.connection: Any = None

    async def open(self, tell: Tell) -> None:
        style, place = self._style, self._place
        if place.dialect == "sqlite":
            # Without a wait, a lock that is held is an error at once, and the activity's next attempt is what waits.
            options: dict[str, Any] = (
                {"timeout": 0, "isolation_level": ""}
                if style == "implicit"
                else {"timeout": 10, "isolation_level": None}
            )
            connect: Any = aiosqlite.connect if place.asyncio else sqlite3.connect
            self.connection = await _settled(connect(place.address, **options))
            # Called before a statement runs, the driver's own BEGIN included.
            await _settled(self.connection.set_trace_callback(tell))
            return
        told, cursor = (_AsyncTold, _AsyncToldCursor) if place.asyncio else (_Told, _ToldCursor)
        self.connection = await _settled(told.connect(place.address, cursor_factory=cursor))  # type: ignore[arg-type]
        self.connection.tell = tell
        if style == "explicit":
            await _settled(self.connection.set_autocommit(True))
        else:
            level = psycopg.IsolationLevel[place.isolation.replace(" ", "_")]
            await _settled(self.connection.set_isolation_level(level))

    async def begin(self) -> None:
        postgresql = self._place.dialect == "postgresql"
        if self._style == "explicit":
            await self._execute(f"BEGIN ISOLATION LEVEL {self._place.isolation}" if postgresql else "BEGIN IMMEDIATE")
        elif self._style == "read first":
            if not postgresql:
                await self._execute("BEGIN DEFERRED")
            cursor = await self._execute("SELECT balance FROM accounts WHERE name = 'customer'")
            await _settled(cursor.fetchall())

    async def move(self, key: str, phase: str, amount: int) -> None:
        """Move money between the two accounts, as an activity of the bank does."""
        await self._execute(f"UPDATE accounts SET balance = balance - {amount} WHERE name = 'customer'")
        await self._execute(f"UPDATE accounts SET balance = balance + {amount} WHERE name = 'in transit'")
        await self._execute(f"INSERT INTO moves VALUES ('{key}', '{phase}')")

    async def commit(self) -> None:
        if self._style == "explicit":
            await self._execute("COMMIT")
        else:
            await _settled(self.connection.commit())

    async def rollback(self) -> None:
        if self._style != "explicit":
            await _settled(self.connection.rollback())
            return
        with suppress(sqlite3.OperationalError):  # there is no transaction: its BEGIN was refused
            await self._execute("ROLLBACK")

    async def close(self) -> None:
        await _settled(self.connection.close())

    async def _execute(self, statement: str) -> Any:
        return await _settled(self.connection.execute(statement))


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


def is_transient(error: Exception) -> bool:
    """Tell whether the activity's next attempt may succeed: locked, or lost to another transaction."""
    if isinstance(error, sqlite3.OperationalError):
        return "locked" in str(error)
    return isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected)


class _ToldCursor(psycopg.Cursor[Any]):
    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        connection = self.connection
        assert isinstance(connection, _Told)
        connection.tell(query)
        return super().execute(query, *args, **kwargs)


class _Told(psycopg.Connection[Any]):
    """Tells of each statement before it is sent; a BEGIN of the driver's own goes with the statement after it."""

    tell: Tell

    def commit(self) -> None:
        self.tell("COMMIT")
        super().commit()

    def rollback(self) -> None:
        self.tell("ROLLBACK")
        super().rollback()


class _AsyncToldCursor(psycopg.AsyncCursor[Any]):
    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        connection = self.connection
        assert isinstance(connection, _AsyncTold)
        connection.tell(query)
        return await super().execute(query, *args, **kwargs)


class _AsyncTold(psycopg.AsyncConnection[Any]):
    tell: Tell

    async def commit(self) -> None:
        self.tell("COMMIT")
        await super().commit()

    async def rollback(self) -> None:
        self.tell("ROLLBACK")
        await super().rollback()
