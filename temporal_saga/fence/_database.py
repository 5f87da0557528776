"""The fence's statements, and the connections that run them.

No driver is imported. The module of a connection's class shows which driver it comes from.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Hashable, Mapping
from functools import cache, lru_cache
from itertools import count
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

Dialect = Literal["sqlite", "postgresql"]
Row = tuple[Any, ...]
Transaction = Literal["open", "aborted", "none", "returned", "unknown"]

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
# What people call the databases of other drivers, by the package of a connection's class, and by `dialect=`.
_UNSUPPORTED = {
    "MySQLdb": "MySQL",
    "aiomysql": "MySQL",
    "asyncmy": "MySQL",
    "mysql": "MySQL",
    "pymysql": "MySQL",
    "mariadb": "MariaDB",
    "mssql": "SQL Server",
    "pymssql": "SQL Server",
    "pytds": "SQL Server",
    "cx_Oracle": "Oracle",
    "oracle": "Oracle",
    "oracledb": "Oracle",
    "duckdb": "DuckDB",
    "_duckdb": "DuckDB",
    "clickhouse_connect": "ClickHouse",
    "clickhouse_driver": "ClickHouse",
    "snowflake": "Snowflake",
    "mongodb": "MongoDB",
    "pymongo": "MongoDB",
    "redis": "Redis",
}
_SUPPORTED = (
    "the fence supports SQLite and PostgreSQL. In another database use a unique constraint or an upsert "
    '(see "Or without the fence" in docs/fence.md)'
)


class Connection(Protocol):
    """A DB-API connection, or an asyncio one of the same shape."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor, or an awaitable of one."""
        ...


def check_schema(schema: str | None) -> None:
    """Raise TypeError or ValueError for a value that cannot be the name of a schema."""
    if schema is None:
        return
    if not isinstance(schema, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
        raise TypeError(f"schema= must be a str, the name of a schema; got {type(schema).__name__}")
    # In quotes any name is safe. But `%` and `?` have a meaning for drivers, and a dot is a mistake: a table's name.
    if not re.fullmatch(r"[^\W\d][\w$ -]*", schema):
        raise ValueError(
            f"schema={schema!r} is not the name of a schema: it begins with a letter or _, and has letters, digits, "
            "_, $, - and spaces. Give the schema alone, without quotes and without the table"
        )


def _qualified(name: str, schema: str | None) -> str:
    return name if schema is None else f'"{schema}".{name}'


def create_statements(dialect: Dialect, schema: str | None = None) -> list[str]:
    """Return the statements that create the table."""
    time, now = {"sqlite": ("TEXT", "(strftime('%Y-%m-%d %H:%M:%f', 'now'))"), "postgresql": ("TIMESTAMPTZ", "now()")}[
        dialect
    ]
    table, index = _qualified(TABLE, schema), f"{TABLE}_updated_at"
    # In SQLite the schema goes before the name of the index, in PostgreSQL before the name of the table.
    on = f"{_qualified(index, schema)} ON {TABLE}" if dialect == "sqlite" else f"{index} ON {table}"
    return [
        f"""\
CREATE TABLE IF NOT EXISTS {table} (
    key TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('applying', 'applied', 'undoing', 'undone', 'fenced')),
    claim TEXT NOT NULL,
    payload TEXT,
    result TEXT,
    undo_payload TEXT,
    undo_result TEXT,
    created_at {time} NOT NULL DEFAULT {now},
    updated_at {time} NOT NULL DEFAULT {now}
)""",
        f"CREATE INDEX IF NOT EXISTS {on} (updated_at)",
    ]


class Side(NamedTuple):
    """The statements after an effect, in the step or in its undo. Each changes only the record of this claim."""

    keep: str
    """Keeps the result."""
    take_back: tuple[str, ...]
    """Restore the record from before the claim. One of them finds the record."""


class Statements:
    """The fence's statements in one dialect, with its placeholders.

    The first statement of a call writes. In SQLite it takes the lock that keeps others out (and Python's sqlite3 begins
    a transaction by itself). In PostgreSQL it waits for the transaction that holds the key.
    """

    def __init__(self, dialect: Dialect, schema: str | None = None) -> None:
        postgresql = dialect == "postgresql"
        at = "%s" if postgresql else "?"
        now = "now()" if postgresql else "strftime('%Y-%m-%d %H:%M:%f', 'now')"
        table = _qualified(TABLE, schema)
        undoing = f"state = 'undoing', updated_at = {now}, claim = {at}, undo_payload = {at}"

        self.claim = (
            f"INSERT INTO {table} (key, state, claim, payload) VALUES ({at}, 'applying', {at}, {at}) "
            "ON CONFLICT (key) DO NOTHING"
        )
        self.undo = f"UPDATE {table} SET {undoing} WHERE key = {at} AND state IN ('applied', 'applying')"
        self.undo_fenced = f"UPDATE {table} SET {undoing} WHERE key = {at} AND state = 'fenced' AND undo_payload = {at}"
        self.insert_undo = (
            f"INSERT INTO {table} (key, claim, undo_payload, state) VALUES ({at}, {at}, {at}, {at}) "
            "ON CONFLICT (key) DO NOTHING"
        )
        if postgresql:
            # One statement, since a step may commit between two.
            self.claim += " RETURNING state"
            self.upsert_undo = (
                f"INSERT INTO {table} (key, claim, undo_payload, state) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (key) DO UPDATE SET state = 'undoing', updated_at = now(), claim = excluded.claim, "
                "undo_payload = excluded.undo_payload "
                f"WHERE {TABLE}.state IN ('applied', 'applying') "
                f"OR excluded.state = 'undoing' AND {TABLE}.state = 'fenced' "
                f"AND {TABLE}.undo_payload = excluded.undo_payload RETURNING state"
            )
        self.read = f"SELECT state, claim, payload, result, undo_payload, undo_result FROM {table} WHERE key = {at}"

        mine = f"WHERE key = {at} AND claim = {at}"
        # PostgreSQL's now() is the time at which the transaction began, which no other transaction of the connection
        # has. SQLite has nothing like it.
        step, undo = (
            (f"{mine} AND created_at = now()", f"{mine} AND updated_at = now()") if postgresql else (mine, mine)
        )
        self.step = Side(
            f"UPDATE {table} SET state = 'applied', result = {at} {step}", (f"DELETE FROM {table} {step}",)
        )
        self.compensation = Side(
            f"UPDATE {table} SET state = 'undone', undo_result = {at} {undo}",
            (
                f"UPDATE {table} SET state = 'applied', undo_payload = NULL {undo} AND payload IS NOT NULL",
                f"DELETE FROM {table} {undo} AND payload IS NULL",  # made by the undo: no step left a payload
            ),
        )

        before = "now() - make_interval(secs => %s)" if postgresql else "strftime('%Y-%m-%d %H:%M:%f', 'now', ?)"
        purged = (
            f"DELETE FROM {table} WHERE key IN "
            f"(SELECT key FROM {table} WHERE updated_at < {before} ORDER BY updated_at LIMIT {at}"
        )
        # SKIP LOCKED: a record that a transaction holds is in use.
        self.purge = (
            f"WITH purged AS ({purged} FOR UPDATE SKIP LOCKED) RETURNING 1) SELECT count(*) FROM purged"
            if postgresql
            else f"{purged})"
        )


@lru_cache(maxsize=256)  # a schema for each tenant
def statements_of(dialect: Dialect, schema: str | None) -> Statements:
    """Return the statements for a table."""
    return Statements(dialect, schema)


class Database:
    """The user's connection, blocking or asyncio. With a blocking connection no method here ever waits.

    Attributes:
        dialect: The dialect of its SQL.
        blocking: Whether it is a blocking connection, and not an asyncio one.
        statements: The fence's statements in this dialect.
    """

    def __init__(self, connection: object, dialect: Dialect | None, schema: str | None) -> None:
        check_schema(schema)
        self._given = connection
        self._connection: Any = _driver_connection(connection)
        self.dialect: Dialect = _dialect(self._connection) if dialect is None else _checked(dialect)
        self._schema = schema
        self.blocking = not inspect.iscoroutinefunction(getattr(self._connection, "commit", None))
        self.statements = statements_of(self.dialect, schema)

    async def claim(self, key: str, claim: str, payload: str) -> bool:
        """Make the record of a step, unless there is one. Return whether this made it."""
        if self.dialect == "postgresql":
            return await self.fetch(self.statements.claim, key, claim, payload) is not None
        return await self.execute(self.statements.claim, key, claim, payload) > 0

    async def claim_undo(self, key: str, claim: str, payload: str, *, guard: bool) -> str | None:
        """Claim a step's record for its undo, or make one. Return its state; None if an undo has claimed it before."""
        statements, fresh = self.statements, "fenced" if guard else "undoing"
        if self.dialect == "postgresql":
            row = await self.fetch(statements.upsert_undo, key, claim, payload, fresh)
            return None if row is None else str(text(row[0]))
        # Without RETURNING, which SQLite has since 3.35 (RHEL 9 has 3.34). The first statement takes the lock for all.
        if await self.execute(statements.undo, claim, payload, key):
            return "undoing"
        if await self.execute(statements.insert_undo, key, claim, payload, fresh):
            return fresh
        if not guard and await self.execute(statements.undo_fenced, claim, payload, key, payload):
            return "undoing"
        return None

    async def fetch(self, statement: str, *values: object) -> Row | None:
        """Run a statement that gives at most one row, and return that row."""
        try:
            cursor = await self._run(statement, values)
            # Read all rows: a cursor that is not read to its end keeps SQLite from committing.
            rows = await _settled(cursor.fetchall())
        except Exception as error:  # in a pipeline the error comes with the rows
            self._tell_of_a_missing_table(error)
            raise
        if not rows:
            return None
        row: Any = rows[0]
        return tuple(cast("Mapping[str, Any]", row).values() if isinstance(row, Mapping) else row)

    async def execute(self, statement: str, *values: object) -> int:
        """Run a statement, and return how many rows it changed; -1 if that is not known yet."""
        try:
            return cast("int", (await self._run(statement, values)).rowcount)
        except Exception as error:
            self._tell_of_a_missing_table(error)
            raise

    def _tell_of_a_missing_table(self, error: Exception) -> None:
        if not _is_missing_table(error):
            return
        where = "on the connection's search path" if self.dialect == "postgresql" else "in the connection's database"
        place = where if self._schema is None else f"in schema {self._schema!r}"
        schema = "" if self._schema is None else f", schema={self._schema!r}"
        create = "create_table" if self.blocking else "create_table_async"
        # A RuntimeError, not the driver's error: a migration fixes this, so the activity must be retried. The driver's
        # error would be classified as a statement that is always rejected.
        raise RuntimeError(
            f"table {TABLE} is missing {place}: call fence.{create}(connection{schema}) before the worker starts, or "
            "run fence.DDL in a migration"
        ) from error

    async def _run(self, statement: str, values: tuple[object, ...]) -> Any:
        cursor = await _settled(self._connection.cursor())
        # Plain tuples, whatever the connection's row factory makes; for this cursor only.
        if _root(cursor) in ("sqlite3", "aiosqlite"):
            cursor.row_factory = None
        elif _root(cursor) == "psycopg":
            cursor.row_factory = _tuples
        if _is_raw(cast("Hashable", type(cursor))):  # a psycopg cursor with PostgreSQL's own placeholders
            numbers = count(1)
            statement = re.sub("%s", lambda _: f"${next(numbers)}", statement)
        await _settled(cursor.execute(statement, values) if values else cursor.execute(statement))
        return cursor

    def transaction(self) -> Transaction:
        """Return what the connection itself knows about its transaction, without asking the server.

        "returned" means that SQLAlchemy has taken the connection back into its pool: someone else may have it by now.
        """
        if getattr(self._given, "driver_connection", self._connection) is not self._connection:
            return "returned"
        if self.dialect == "sqlite":
            within = getattr(self._connection, "in_transaction", None)
            return "unknown" if within is None else "open" if within else "none"
        status = getattr(getattr(self._connection, "info", None), "transaction_status", None)
        # libpq's numbers, in psycopg and psycopg2. A pipeline shows 1, a statement in progress.
        states: dict[Any, Transaction] = {0: "none", 2: "open", 3: "aborted", 4: "none"}
        return states.get(status, "unknown")

    async def check_transaction(self) -> None:
        """Raise RuntimeError if the connection shows that each statement would be a transaction of its own."""
        if self.dialect == "sqlite":
            # Python 3.12 has `autocommit`: True, False, or -1 for the older way, which `isolation_level` says.
            each_alone = False
            if self.transaction() != "open":
                mode = await self._sqlite_mode()
                level = getattr(self._connection, "isolation_level", "")
                each_alone = mode is True or (mode == -1 and level is None)
            fix = "`BEGIN` first, or open the connection without isolation_level=None and autocommit=True"
        else:
            each_alone = bool(getattr(self._connection, "autocommit", False))
            if each_alone and self.transaction() == "unknown":
                await self.fetch("SELECT 1")  # a pipeline tells the transaction once what was sent has run
            each_alone = each_alone and self.transaction() not in ("open", "aborted")
            fix = "`with connection.transaction():` around it, or autocommit=False"
        if each_alone:
            raise RuntimeError(
                "the connection is in autocommit mode, so effect and record would not commit together: use " + fix
            )

    async def _sqlite_mode(self) -> object:
        wrapped = getattr(self._connection, "_conn", None)
        if _root(self._connection) == "aiosqlite" and wrapped is not None:
            # aiosqlite does not expose it, and sqlite3 shows it in the connection's own thread only.
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
    """Return a column as text. It is bytes with sqlite3's text_factory=bytes, or PostgreSQL's encoding SQL_ASCII."""
    return value.decode() if isinstance(value, bytes) else value


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _tuples(cursor: object) -> type[tuple[Any, ...]]:
    return tuple


def _is_missing_table(error: Exception) -> bool:
    said = str(error)
    if TABLE not in said:  # the error of a trigger, or in a pipeline of an earlier statement
        return False
    # psycopg; psycopg2. Others have PostgreSQL's code in the text. SQLite has no code, and its text is not translated.
    state: object = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state == "42P01" or "42P01" in said or "no such table" in said


def _root(thing: object) -> str:
    """Return the package that a connection or cursor comes from; an empty str if the fence does not know it."""
    return _root_of(cast("Hashable", type(thing)))


@cache
def _root_of(kind: Hashable) -> str:
    roots = (base.__module__.partition(".")[0] for base in cast("type", kind).__mro__)
    return next((root for root in roots if root in _DIALECTS or root in _FIXES or root in _UNSUPPORTED), "")


@cache
def _is_raw(kind: Hashable) -> bool:
    return any(base.__name__ == "RawCursorMixin" for base in cast("type", kind).__mro__)


def _driver_connection(connection: Any) -> Any:
    # SQLAlchemy's pool hands out proxies, and wraps its asyncio drivers once more.
    while _root(connection) == "sqlalchemy":
        inner = getattr(connection, "driver_connection", None)
        if inner is None:
            break
        connection = inner
    root = _root(connection)
    if root in _UNSUPPORTED:
        raise TypeError(f"{_name(connection)} is a connection to {_UNSUPPORTED[root]}: {_SUPPORTED}")
    if fix := _FIXES.get(root):
        raise TypeError(f"{_name(connection)} is not a connection that the fence can use: pass {fix}")
    if root in _DIALECTS and not hasattr(connection, "cursor"):
        raise TypeError(f"{_name(connection)} is not a connection: pass the connection that it belongs to")
    if not hasattr(connection, "cursor"):  # a file's name, a URL, a function that connects
        raise TypeError(
            f"{_name(connection)} is not a connection: pass an open one, such as sqlite3.connect(...) or "
            "psycopg.connect(...)"
        )
    return connection


def _checked(dialect: Dialect) -> Dialect:
    if dialect in get_args(Dialect):
        return dialect
    names = {spelling.lower(): name for pair in _UNSUPPORTED.items() for spelling, name in (pair, (pair[1], pair[1]))}
    if name := names.get(dialect.lower()):
        raise ValueError(f"dialect={dialect!r}: {name} is not supported: {_SUPPORTED}")
    raise ValueError(f'dialect={dialect!r} is not a dialect: say dialect="sqlite" or dialect="postgresql"')


def _dialect(connection: object) -> Dialect:
    try:
        return _DIALECTS[_root(connection)]
    except KeyError:
        raise TypeError(
            f"the fence cannot tell what database {_name(connection)} connects to: pass the driver's own connection, "
            'or say dialect="sqlite" or dialect="postgresql"'
        ) from None


def _name(connection: object) -> str:
    return f"{type(connection).__module__}.{type(connection).__qualname__}"
