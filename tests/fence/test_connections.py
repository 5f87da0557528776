"""The connections that the fence takes, with what people set on them, and those that it refuses."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import psycopg_pool
import pytest
import sqlalchemy
from psycopg.rows import class_row, dict_row, namedtuple_row
from sqlalchemy import orm

from temporal_saga import fence
from temporal_saga.errors import Fenced
from tests.fence.support import Bank, Database, environment, new_key, transaction

TAKE = "UPDATE account SET balance = balance - 10"


def take(connection: Any, key: str, *, phase: str = "do", **options: Any) -> Any:
    """Run the fence in an activity's attempt, without a transaction of its own."""

    def effect() -> str:
        connection.cursor().execute(TAKE)
        return "taken"

    return environment(phase, key).run(lambda: fence.once(connection, effect, payload=1, **options))


def check_all_paths(connection: Any, commit: Any, **options: Any) -> None:
    """Go every way through the fence: first, repeat, undo, its repeat, tombstone, late."""
    key, other = new_key(), new_key()
    assert take(connection, key, **options) == "taken"
    commit()
    assert take(connection, key, **options) == "taken"
    assert take(connection, key, phase="undo", **options) == "taken"
    commit()
    assert take(connection, key, phase="undo", **options) == "taken"
    assert take(connection, other, phase="undo", **options) is None
    commit()
    with pytest.raises(Fenced):
        take(connection, other, **options)
    commit()


# What is set on a connection


def test_a_plain_connection(database: Database) -> None:
    connection = database.connect()
    check_all_paths(connection, connection.commit)
    assert database.balance == 80


@pytest.mark.parametrize("factory", [sqlite3.Row, lambda cursor, row: {"one": 1}], ids=["Row", "dict"])
def test_row_factories_of_sqlite(sqlite: Database, factory: Any) -> None:
    connection = sqlite.connect()
    connection.row_factory = factory
    check_all_paths(connection, connection.commit)
    assert connection.row_factory is factory


@pytest.mark.parametrize("factory", [bytes, lambda text: text.decode(errors="ignore")], ids=["bytes", "function"])
def test_text_factories_of_sqlite(sqlite: Database, factory: Any) -> None:
    connection = sqlite.connect()
    connection.text_factory = factory
    check_all_paths(connection, connection.commit)


@pytest.mark.parametrize(
    "factory", [dict_row, namedtuple_row, class_row(SimpleNamespace)], ids=["dict", "namedtuple", "class"]
)
def test_row_factories_of_psycopg(postgresql: Database, factory: Any) -> None:
    connection = postgresql.connect(row_factory=factory)
    check_all_paths(connection, connection.commit)


@pytest.mark.parametrize("factory", [psycopg.ClientCursor, psycopg.RawCursor])
def test_cursor_factories_of_psycopg(postgresql: Database, factory: Any) -> None:
    connection = postgresql.connect(cursor_factory=factory)
    check_all_paths(connection, connection.commit)


@pytest.mark.parametrize("threshold", [0, None])
def test_statements_that_are_prepared_at_once_or_never(postgresql: Database, threshold: int | None) -> None:
    connection = postgresql.connect(prepare_threshold=threshold)
    for _ in range(2):
        check_all_paths(connection, connection.commit)


def test_text_that_the_driver_gives_as_bytes(postgresql: Database) -> None:
    """As from a database of encoding SQL_ASCII."""
    connection = postgresql.connect(client_encoding="sql_ascii")
    assert connection.execute("SELECT 'a'::text").fetchone() == (b"a",)
    check_all_paths(connection, connection.commit)


@pytest.mark.parametrize("within", ["transaction outside", "transaction inside"])
@pytest.mark.parametrize("autocommit", [True, False])
def test_a_pipeline(postgresql: Database, within: str, autocommit: bool) -> None:
    connection, key = postgresql.connect(autocommit=autocommit), new_key()
    for _ in range(2):
        if within == "transaction outside":
            with connection.transaction(), connection.pipeline():
                assert take(connection, key) == "taken"
        else:
            with connection.pipeline(), connection.transaction():
                assert take(connection, key) == "taken"
    assert postgresql.balance == 90


def test_a_pipeline_whose_transaction_has_not_been_answered_yet(postgresql: Database) -> None:
    connection = postgresql.connect(autocommit=True)
    with connection.pipeline(), connection.transaction():
        connection.execute("SELECT 1")
        take(connection, new_key())
    assert postgresql.balance == 90


def test_an_error_of_a_late_answer_in_a_pipeline_rolls_all_back(postgresql: Database) -> None:
    connection, key = postgresql.connect(), new_key()

    def effect() -> int:
        connection.execute("UPDATE account SET balance = -1")
        return 1

    def attempt() -> None:
        with connection.transaction(), connection.pipeline():
            fence.once(connection, effect, payload=1)

    with pytest.raises(psycopg.IntegrityError):
        environment("do", key).run(attempt)
    assert postgresql.state is None


# Autocommit


def refused(connection: Any, database: Database, **options: Any) -> None:
    with pytest.raises(RuntimeError, match="autocommit mode, so effect and record would not commit together"):
        take(connection, new_key(), **options)
    assert database.state is None
    assert database.balance == 100


def test_autocommit_of_sqlite(sqlite: Database) -> None:
    connection = sqlite.connect(isolation_level=None)
    refused(connection, sqlite)
    connection.execute("BEGIN IMMEDIATE")
    take(connection, new_key())
    connection.execute("ROLLBACK")
    assert sqlite.state is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3's autocommit= is new in Python 3.12")
@pytest.mark.parametrize("level", ["DEFERRED", None])
def test_autocommit_of_sqlite_since_python_3_12(sqlite: Database, level: str | None) -> None:
    connection = sqlite.connect(autocommit=True, isolation_level=level)
    refused(connection, sqlite)
    connection.execute("BEGIN")
    take(connection, new_key())
    connection.execute("ROLLBACK")
    assert sqlite.state is None
    manual = sqlite.connect(autocommit=False, isolation_level=level)
    check_all_paths(manual, manual.commit)
    manual.close()  # it always holds a transaction open
    assert sqlite.balance == 80


def test_autocommit_of_psycopg(postgresql: Database) -> None:
    connection = postgresql.connect(autocommit=True)
    refused(connection, postgresql)
    with connection.pipeline():
        refused(connection, postgresql)
    with connection.pipeline():
        connection.execute("SELECT 1")
        refused(connection, postgresql)
    with connection.transaction():
        take(connection, new_key())
    assert postgresql.balance == 90


def test_a_connection_of_another_driver_in_autocommit(postgresql: Database) -> None:
    """It says so, and nothing of its transaction."""
    other = _Other(postgresql.connect())
    other.autocommit = True
    refused(other, postgresql, dialect="postgresql")


# Other connections


class _Other:
    """A connection of a driver that the fence does not know."""

    def __init__(self, connection: Any) -> None:
        self.cursor = connection.cursor
        self.commit = connection.commit
        self.autocommit = False


def test_a_driver_whose_dialect_is_told(database: Database) -> None:
    other = _Other(database.connect())
    with pytest.raises(
        TypeError, match=r"cannot tell what database tests\.fence\.test_connections\._Other connects to"
    ):
        take(other, new_key())
    check_all_paths(other, other.commit, dialect=database.dialect)
    assert database.balance == 80


@pytest.mark.parametrize("dialect", [None, "sqlite"])
@pytest.mark.parametrize(
    "thing",
    ["bank.db", b"bank.db", Path("bank.db"), None, 1, sqlite3, sqlite3.connect, {"dsn": "x"}],
    ids=lambda thing: type(thing).__name__,
)
def test_what_is_not_a_connection_at_all(thing: Any, dialect: Any) -> None:
    """The first mistake: a file's name in place of an open connection. The message says what to pass."""
    with pytest.raises(TypeError, match=r" is not a connection: pass an open one, such as sqlite3\.connect\(\.\.\.\)"):
        take(thing, new_key(), dialect=dialect)


def test_a_driver_whose_rows_are_mappings(postgresql: Database) -> None:
    """As psycopg2's are with RealDictCursor."""

    class Cursor:
        def __init__(self, cursor: Any) -> None:
            self.execute = cursor.execute
            self.fetchall = cursor.fetchall
            self._cursor = cursor

        @property
        def rowcount(self) -> Any:
            return self._cursor.rowcount

    connection = postgresql.connect(row_factory=dict_row)
    other = _Other(connection)
    other.cursor = lambda: Cursor(connection.cursor())
    check_all_paths(other, other.commit, dialect="postgresql")


def test_an_error_on_a_connection_of_another_driver(database: Database) -> None:
    connection = database.connect()
    other, key = _Other(connection), new_key()

    def effect() -> None:
        connection.cursor().execute("UPDATE account SET balance = -1")

    def attempt() -> None:
        with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
            fence.once(other, effect, payload=1, dialect=database.dialect)  # type: ignore[arg-type]
        connection.commit()

    environment("do", key).run(attempt)
    assert database.state is None


def test_a_dialect_that_there_is_not(database: Database) -> None:
    with pytest.raises(ValueError, match='is not a dialect: say dialect="sqlite" or dialect="postgresql"'):
        take(database.connect(), new_key(), dialect="postgres")


def test_a_cursor_is_no_connection(database: Database) -> None:
    with pytest.raises(TypeError, match=r"\.Cursor is not a connection: pass the connection"):
        take(database.connect().cursor(), new_key())


def test_a_subclass_of_a_driver_s_connection(sqlite: Database) -> None:
    class Mine(sqlite3.Connection):
        pass

    connection = sqlite.connect(factory=Mine)
    check_all_paths(connection, connection.commit)


def test_a_pool_of_psycopg(postgresql: Database) -> None:
    with psycopg_pool.ConnectionPool(postgresql.where, min_size=1, open=True) as pool:
        key = new_key()
        for _ in range(2):
            with pool.connection() as connection:
                assert take(connection, key) == "taken"
        with pytest.raises(TypeError, match=r"with pool\.connection\(\) as connection"):
            take(pool, key)
    assert postgresql.balance == 90


@contextmanager
def engine_of(database: Database, **options: Any) -> Iterator[sqlalchemy.Engine]:
    if database.dialect == "sqlite":
        engine = sqlalchemy.create_engine(f"sqlite:///{database.where}", **options)
    else:
        creator = database.connect
        engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=creator, **options)
    try:
        yield engine
    finally:
        engine.dispose()


def test_a_session_of_sqlalchemy(database: Database) -> None:
    with engine_of(database) as engine:
        key = new_key()

        def attempt(phase: str = "do") -> Any:
            with orm.Session(engine) as session, session.begin():
                take = sqlalchemy.text(TAKE)
                raw: Any = session.connection().connection

                def effect() -> str:
                    session.execute(take)
                    return "taken"

                return environment(phase, key).run(lambda: fence.once(raw, effect, payload=1))

        assert [attempt(), attempt()] == ["taken", "taken"]
        assert database.balance == 90
        assert [attempt("undo"), attempt("undo")] == ["taken", "taken"]
        assert database.balance == 80


def test_a_session_of_sqlalchemy_that_rolls_back(database: Database) -> None:
    bank = Bank(database)
    key = new_key()
    with engine_of(database) as engine, orm.Session(engine) as session:
        raw: Any = session.connection().connection
        take(raw, key)
        session.rollback()
    assert database.state is None
    assert bank.take(key) == 90


def test_a_raw_connection_of_sqlalchemy(database: Database) -> None:
    with engine_of(database) as engine, closing(engine.raw_connection()) as connection:
        check_all_paths(connection, connection.commit)
    assert database.balance == 80


def test_autocommit_of_sqlalchemy(database: Database) -> None:
    with engine_of(database, isolation_level="AUTOCOMMIT") as engine, closing(engine.raw_connection()) as connection:
        refused(connection, database)


def test_what_is_no_driver_s_connection_of_sqlalchemy(sqlite: Database) -> None:
    with engine_of(sqlite) as engine, orm.Session(engine) as session, engine.connect() as connection:
        for wrong in (session, connection, engine):
            with pytest.raises(TypeError, match=r"pass the driver's own: `session\.connection\(\)\.connection`"):
                take(wrong, new_key())


def test_a_connection_of_asyncpg() -> None:
    connection: Any = type("Connection", (), {"__module__": "asyncpg.connection"})()
    with pytest.raises(TypeError, match=r"pass one of psycopg's \(`psycopg\.AsyncConnection`"):
        take(connection, new_key())


def test_an_effect_that_is_awaited(database: Database) -> None:
    async def effect() -> None: ...

    def attempt() -> None:
        with transaction(database.connect()) as connection:
            fence.once(connection, effect, payload=1)

    with pytest.raises(TypeError, match="needs `await once_async"):
        environment("do", new_key()).run(attempt)
    assert database.state is None
