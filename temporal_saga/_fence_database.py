"""The fence's statements, and the connections they run on: any driver's, told apart by what they can do.

No driver is imported: a connection is known by the module of its class, and asked for what it offers.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Hashable, Mapping
from functools import cache
from itertools import count
from typing import Any, Literal, Protocol, cast

Dialect = Literal["sqlite", "postgresql"]
Row = tuple[Any, ...]

TABLE = "temporal_saga_fence"

_DIALECTS: dict[str, Dialect] = {
    "sqlite3": "sqlite",
    "aiosqlite": "sqlite",
    "psycopg": "postgresql",
    "psycopg2": "postgresql",
}
_FIXES = {
    "sqlalchemy": "the driver's own: `session.connection().connection`, `connection.connection`, and of an async one "
    "`await (await session.connection()).get_raw_connection()`",
    "psycopg_pool": "one that the pool lends: `with pool.connection() as connection`",
    "asyncpg": "one of psycopg's (`psycopg.AsyncConnection`; in SQLAlchemy `postgresql+psycopg://`)",
}


class Connection(Protocol):
    """A DB-API connection, or an asyncio one of the same shape."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor, or an awaitable of one."""
        ...


def create_statements(dialect: Dialect) -> list[str]:
    """Return what makes the table."""
    time, now = {"sqlite": ("TEXT", "(strftime('%Y-%m-%d %H:%M:%f', 'now'))"), "postgresql": ("TIMESTAMPTZ", "now()")}[
        dialect
    ]
    return [
        f"""\
CREATE TABLE IF NOT EXISTS {TABLE} (
    key TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('applied', 'undone', 'fenced')),
    payload TEXT,
    result TEXT,
    undo_payload TEXT,
    undo_result TEXT,
    created_at {time} NOT NULL DEFAULT {now},
    updated_at {time} NOT NULL DEFAULT {now}
)""",
        f"CREATE INDEX IF NOT EXISTS {TABLE}_updated_at ON {TABLE} (updated_at)",
    ]


class Statements:
    """The fence's statements in one dialect, with its placeholders.

    The first one of a call writes. In SQLite it takes the lock that keeps others out (and Python's sqlite3 begins a
    transaction by itself); in PostgreSQL it waits for who holds the key.
    """

    def __init__(self, dialect: Dialect) -> None:
        postgresql = dialect == "postgresql"
        at = "%s" if postgresql else "?"
        now = "now()" if postgresql else "strftime('%Y-%m-%d %H:%M:%f', 'now')"
        undone = f"state = 'undone', updated_at = {now}, undo_payload ="

        self.claim = (
            f"INSERT INTO {TABLE} (key, state, payload) VALUES ({at}, 'applied', {at}) ON CONFLICT (key) DO NOTHING"
        )
        self.undo = f"UPDATE {TABLE} SET {undone} {at} WHERE key = {at} AND state = 'applied'"
        self.undo_fenced = (
            f"UPDATE {TABLE} SET {undone} {at} WHERE key = {at} AND state = 'fenced' AND undo_payload = {at}"
        )
        self.insert_undo = (
            f"INSERT INTO {TABLE} (key, undo_payload, state) VALUES ({at}, {at}, {at}) ON CONFLICT (key) DO NOTHING"
        )
        if postgresql:
            # One statement: between two of them a step may commit.
            self.claim += " RETURNING state"
            self.upsert_undo = (
                f"INSERT INTO {TABLE} (key, undo_payload, state) VALUES (%s, %s, %s) "
                f"ON CONFLICT (key) DO UPDATE SET {undone} excluded.undo_payload "
                f"WHERE {TABLE}.state = 'applied' OR excluded.state = 'undone' AND {TABLE}.state = 'fenced' "
                f"AND {TABLE}.undo_payload = excluded.undo_payload RETURNING state"
            )
        self.read = f"SELECT state, payload, result, undo_payload, undo_result FROM {TABLE} WHERE key = {at}"
        self.keep_result = f"UPDATE {TABLE} SET result = {at} WHERE key = {at}"
        self.keep_undo_result = f"UPDATE {TABLE} SET undo_result = {at} WHERE key = {at}"
        self.unclaim = f"DELETE FROM {TABLE} WHERE key = {at}"
        # A record without the step's payload is the undo's own.
        self.unclaim_undo = f"DELETE FROM {TABLE} WHERE key = {at} AND payload IS NULL"
        self.restore = (
            f"UPDATE {TABLE} SET state = 'applied', undo_payload = NULL WHERE key = {at} AND payload IS NOT NULL"
        )
        before = "now() - make_interval(secs => %s)" if postgresql else "strftime('%Y-%m-%d %H:%M:%f', 'now', ?)"
        purged = (
            f"DELETE FROM {TABLE} WHERE key IN "
            f"(SELECT key FROM {TABLE} WHERE updated_at < {before} ORDER BY updated_at LIMIT {at}"
        )
        # Who holds a record is using it.
        self.purge = (
            f"WITH purged AS ({purged} FOR UPDATE SKIP LOCKED) RETURNING 1) SELECT count(*) FROM purged"
            if postgresql
            else f"{purged})"
        )


STATEMENTS: Mapping[Dialect, Statements] = {"sqlite": Statements("sqlite"), "postgresql": Statements("postgresql")}


class Database:
    """A connection of the user's, blocking or not: of a blocking one no method here ever waits.

    Attributes:
        dialect: Of its SQL.
        blocking: Whether it is no asyncio one.
        statements: The fence's, in its dialect.
    """

    def __init__(self, connection: object, dialect: Dialect | None) -> None:
        self._connection: Any = _driver_connection(connection)
        self.dialect: Dialect = dialect or _dialect(self._connection)
        if self.dialect not in STATEMENTS:
            raise ValueError(f"dialect={dialect!r}: it is one of {', '.join(STATEMENTS)}")
        self.blocking = not inspect.iscoroutinefunction(getattr(self._connection, "commit", None))
        self.statements = STATEMENTS[self.dialect]

    async def claim(self, key: str, payload: str) -> bool:
        """Make the record of a step, unless there is one."""
        if self.dialect == "postgresql":
            return await self.fetch(self.statements.claim, key, payload) is not None
        return await self.execute(self.statements.claim, key, payload) > 0

    async def claim_undo(self, key: str, payload: str, *, guard: bool) -> str | None:
        """Mark a step's record as undone, or make one; return its state, None if it was undone, or fenced, before."""
        statements, fresh = self.statements, "fenced" if guard else "undone"
        if self.dialect == "postgresql":
            row = await self.fetch(statements.upsert_undo, key, payload, fresh)
            return None if row is None else str(text(row[0]))
        # Without RETURNING, which SQLite has since 3.35 (RHEL 9 has 3.34). The first takes the lock for all.
        if await self.execute(statements.undo, payload, key):
            return "undone"
        if await self.execute(statements.insert_undo, key, payload, fresh):
            return fresh
        if not guard and await self.execute(statements.undo_fenced, payload, key, payload):
            return "undone"
        return None

    async def fetch(self, statement: str, *values: object) -> Row | None:
        """Run a statement that gives at most one row, and return that."""
        cursor = await self._run(statement, values)
        # All: one that is not read to its end keeps SQLite from committing.
        rows = await _settled(cursor.fetchall())
        if not rows:
            return None
        row: Any = rows[0]
        return tuple(cast("Mapping[str, Any]", row).values() if isinstance(row, Mapping) else row)

    async def execute(self, statement: str, *values: object) -> int:
        """Run a statement, and return how many rows it changed; -1 if that is not known yet."""
        return cast("int", (await self._run(statement, values)).rowcount)

    async def _run(self, statement: str, values: tuple[object, ...]) -> Any:
        cursor = await _settled(self._connection.cursor())
        # Plain tuples, whatever the connection's factory makes; of this cursor only.
        if _root(cursor) in ("sqlite3", "aiosqlite"):
            cursor.row_factory = None
        elif _root(cursor) == "psycopg":
            cursor.row_factory = _tuples
        if _is_raw(cast("Hashable", type(cursor))):  # psycopg's that takes PostgreSQL's own placeholders
            numbers = count(1)
            statement = re.sub("%s", lambda _: f"${next(numbers)}", statement)
        await _settled(cursor.execute(statement, values) if values else cursor.execute(statement))
        return cursor

    def transaction(self) -> Literal["open", "aborted", "none", "unknown"]:
        """Tell what the connection itself knows of its transaction; it asks no server."""
        if self.dialect == "sqlite":
            within = getattr(self._connection, "in_transaction", None)
            return "unknown" if within is None else "open" if within else "none"
        status = getattr(getattr(self._connection, "info", None), "transaction_status", None)
        # libpq's numbers, in psycopg and psycopg2. 1, a statement under way, is what a pipeline shows.
        states: dict[Any, Literal["open", "aborted", "none"]] = {0: "none", 2: "open", 3: "aborted", 4: "none"}
        return states.get(status, "unknown")

    async def check_transaction(self) -> None:
        """Raise RuntimeError where each statement would be a transaction of its own, if that can be told."""
        if self.dialect == "sqlite":
            # Python 3.12 has `autocommit`: True, False, or -1 for the older way, which `isolation_level` says.
            each_alone = False
            if self.transaction() != "open":
                mode = await self._sqlite_mode()
                level = getattr(self._connection, "isolation_level", "")
                each_alone = mode is True or (mode == -1 and level is None)
            fix = "`BEGIN` first, or open it without isolation_level=None and autocommit=True"
        else:
            each_alone = bool(getattr(self._connection, "autocommit", False))
            if each_alone and self.transaction() == "unknown":
                await self.fetch("SELECT 1")  # in a pipeline: what was sent has to run before its transaction is known
            each_alone = each_alone and self.transaction() not in ("open", "aborted")
            fix = "`with connection.transaction():` around it, or autocommit=False"
        if each_alone:
            raise RuntimeError(
                "the connection is in autocommit mode, so that effect and record would not commit together: " + fix
            )

    async def _sqlite_mode(self) -> object:
        wrapped = getattr(self._connection, "_conn", None)
        if _root(self._connection) == "aiosqlite" and wrapped is not None:
            # Not handed on by aiosqlite, and told in the thread of the connection only.
            return await self._connection._execute(getattr, wrapped, "autocommit", -1)
        return getattr(self._connection, "autocommit", -1)


def run_blocking(coroutine: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


def text(value: Any) -> Any:
    """Return a column's text: bytes with sqlite3's text_factory=bytes, or from a PostgreSQL of encoding SQL_ASCII."""
    return value.decode() if isinstance(value, bytes) else value


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _tuples(cursor: object) -> type[tuple[Any, ...]]:
    return tuple


def _root(thing: object) -> str:
    """Return the package that a connection or cursor is of; an empty str for one that the fence does not know."""
    return _root_of(cast("Hashable", type(thing)))


@cache
def _root_of(kind: Hashable) -> str:
    roots = (base.__module__.partition(".")[0] for base in cast("type", kind).__mro__)
    return next((root for root in roots if root in _DIALECTS or root in _FIXES), "")


@cache
def _is_raw(kind: Hashable) -> bool:
    return any(base.__name__ == "RawCursorMixin" for base in cast("type", kind).__mro__)


def _driver_connection(connection: Any) -> Any:
    # SQLAlchemy's pool hands out proxies; its asyncio drivers are wrapped once more.
    while _root(connection) == "sqlalchemy":
        inner = getattr(connection, "driver_connection", None)
        if inner is None:
            break
        connection = inner
    if fix := _FIXES.get(_root(connection)):
        raise TypeError(f"{_name(connection)} is not a connection that the fence can use: pass {fix}")
    if _root(connection) in _DIALECTS and not hasattr(connection, "cursor"):
        raise TypeError(f"{_name(connection)} is no connection: pass the connection that it is of")
    return connection


def _dialect(connection: object) -> Dialect:
    try:
        return _DIALECTS[_root(connection)]
    except KeyError:
        raise TypeError(
            f"the dialect of {_name(connection)} cannot be told: pass the driver's own connection, "
            'or say dialect="sqlite" or dialect="postgresql"'
        ) from None


def _name(connection: object) -> str:
    return f"{type(connection).__module__}.{type(connection).__qualname__}"
