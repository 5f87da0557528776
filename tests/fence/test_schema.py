"""Where the table is: `schema=`, several databases in one activity, and a table that is not there."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped, unused-ignore]
import pytest
import sqlalchemy
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from temporalio import activity

from temporal_saga import fence
from temporal_saga.classification import classify, classify_errors
from temporal_saga.errors import FailureKind, Fenced
from temporal_saga.testing import simulate
from tests.fence.support import Bank, Database, environment, new_key, sqlite_database, tells, transaction
from tests.fence.test_once import Take
from tests.fence.test_once_async import connect

NO_TIME = timedelta(0)
Connect = Callable[[], Any]


@pytest.fixture
def schemas(database: Database, tmp_path: Path) -> Iterator[tuple[Connect, list[str]]]:
    """What connects to a database with two more schemas, which have an account and a fence each."""
    names = [f"Tenant {uuid.uuid4().hex}-{end}" for end in "ab"]
    opened: list[Any] = []

    def connect() -> Any:
        connection = database.connect()
        if database.dialect == "sqlite":
            for name in names:
                connection.execute(f"ATTACH '{tmp_path / name}' AS \"{name}\"")
        opened.append(connection)
        return connection

    with transaction(connect()) as connection:
        for name in names:
            if database.dialect == "postgresql":
                connection.execute(f'CREATE SCHEMA "{name}"')
            for _ in range(2):
                fence.create_table(connection, schema=name)
            connection.execute(f'CREATE TABLE "{name}".account (balance INTEGER)')
            connection.execute(f'INSERT INTO "{name}".account VALUES (100)')
        connection.execute("DROP TABLE temporal_saga_fence")
    yield connect, names
    if database.dialect == "postgresql":
        with transaction(database.connect()) as connection:
            for name in names:
                connection.execute(f'DROP SCHEMA "{name}" CASCADE')


def take(connect: Connect, schema: str, amount: int = 10, **options: Any) -> Any:
    with transaction(connect()) as connection:

        def effect() -> int:
            connection.execute(f'UPDATE "{schema}".account SET balance = balance - {amount}')
            return int(connection.execute(f'SELECT balance FROM "{schema}".account').fetchall()[0][0])

        return fence.once(connection, effect, payload=amount, **{"schema": schema, **options})


def test_every_way_through_the_fence_in_a_schema(schemas: tuple[Connect, list[str]]) -> None:
    connect, (schema, _) = schemas
    key, late = new_key(), new_key()
    for phase, expected in (("do", 90), ("do", 90), ("undo", 80), ("undo", 80)):
        assert environment(phase, key).run(lambda: take(connect, schema)) == expected
    for _ in range(2):
        assert environment("undo", late).run(lambda: take(connect, schema)) is None
    with pytest.raises(Fenced):
        environment("do", late).run(lambda: take(connect, schema))
    assert environment("undo", late).run(lambda: take(connect, schema, guard=False)) == 70
    assert take(connect, schema, key="mail") == take(connect, schema, key="mail") == 60
    with transaction(connect()) as connection:
        assert fence.purge(connection, older_than=NO_TIME, retry_horizon=NO_TIME, schema=schema) >= 0
        states = connection.execute(f'SELECT count(*) FROM "{schema}".temporal_saga_fence').fetchall()
    assert states[0][0] <= 3


async def test_a_schema_with_asyncio(database: Database) -> None:
    schema = "main" if database.dialect == "sqlite" else database.query("SELECT current_schema()")[0][0]

    async def effect() -> int:
        return 7

    async with connect(database) as connection:
        await connection.execute("DROP TABLE temporal_saga_fence")
        await fence.create_table_async(connection, schema=schema)
        for _ in range(2):
            assert await fence.once_async(connection, effect, payload=1, key="a", schema=schema) == 7
        told = r"^table temporal_saga_fence is missing in schema 'nowhere': call fence\.create_table_async\("
        with tells(RuntimeError, told):
            await fence.once_async(connection, effect, payload=1, key="a", schema="nowhere")
        await connection.rollback()
        with tells(RuntimeError, "in schema 'nowhere'"):
            await fence.purge_async(connection, older_than=NO_TIME, retry_horizon=NO_TIME, schema="nowhere")


@pytest.mark.parametrize("schema", ["", "a.b", 'a"b', "a'; DROP TABLE account; --", "a%s", "a?", "1a", "a\x00", "-"])
def test_what_is_not_the_name_of_a_schema(database: Database, schema: str) -> None:
    connection = database.connect()
    calls: list[Callable[[], object]] = [
        lambda: fence.once(connection, lambda: 1, payload=1, key="a", schema=schema),
        lambda: fence.create_table(connection, schema=schema),
        lambda: fence.purge(connection, older_than=NO_TIME, retry_horizon=NO_TIME, schema=schema),
    ]
    for call in calls:
        with tells(ValueError, "is not the name of a schema"):
            call()
    with pytest.raises(TypeError, match=r"^schema= must be a str, the name of a schema; got int$"):
        fence.create_table(connection, schema=7)  # type: ignore[arg-type]


# Several databases in one activity


def outcomes(phase: str, key: str, attempt: Callable[[], Any]) -> list[Any]:
    """Return what three attempts returned, or said."""
    found: list[Any] = []
    for number in (1, 2, 3):
        try:
            found.append(environment(phase, key, attempt=number).run(attempt))
        except RuntimeError as error:
            found.append(str(error))
    return found


@pytest.fixture
def pairs(schemas: tuple[Connect, list[str]]) -> list[Callable[[], Any]]:
    """Two effects of an activity, which write to two places."""
    connect, names = schemas
    return [partial(take, connect, name) for name in names]


@pytest.mark.parametrize("phase", ["do", "undo", "push"])
def test_two_schemas_of_one_database_are_two_records(pairs: list[Callable[[], Any]], phase: str) -> None:
    """A reply is lost, and each later attempt finds a record in either."""
    key = new_key()
    if phase == "undo":
        environment("do", key).run(lambda: [pair() for pair in pairs])
    expected = [80, 80] if phase == "undo" else [90, 90]
    assert outcomes(phase, key, lambda: [pair() for pair in pairs]) == [expected] * 3


@pytest.mark.parametrize("phase", ["do", "undo", "push"])
def test_two_databases_are_two_records(database: Database, tmp_path: Path, phase: str) -> None:
    """The second of another kind, or another file."""
    (tmp_path / "other").mkdir()
    with sqlite_database(tmp_path / "other") as other:
        key, banks = new_key(), [Bank(database), Bank(other)]

        def attempt() -> list[Any]:
            found = []
            for bank in banks:
                with transaction(bank.database.connect()) as connection:
                    found.append(fence.once(connection, lambda: bank._add(connection, -10), payload=1))  # noqa: B023
            return found

        if phase == "undo":
            environment("do", key).run(attempt)
        expected = [80, 80] if phase == "undo" else [90, 90]
        assert outcomes(phase, key, attempt) == [expected] * 3


def test_two_search_paths_are_two_records(postgresql: Database, postgres: str) -> None:
    with other_path(postgres) as where:
        key, other = new_key(), Database("postgresql", where)

        def attempt() -> list[Any]:
            return [_nothing(postgresql), _nothing(other)]

        for phase in ("do", "undo"):
            assert outcomes(phase, key, attempt) == [[7, 7]] * 3
        other.close()


@pytest.mark.parametrize("phase", ["do", "undo", "push"])
def test_one_database_through_two_connections_is_one_record(database: Database, phase: str) -> None:
    """A second effect there is left out, so it is told, at each attempt."""
    key = new_key()
    if phase == "undo":
        environment("do", key).run(lambda: _nothing(database))

    def attempt() -> list[Any]:
        return [_nothing(database), _nothing(database)]

    for number in (1, 2):
        with tells(RuntimeError, "a second effect in one attempt"):
            environment(phase, key, attempt=number).run(attempt)


def _nothing(database: Database) -> Any:
    with transaction(database.connect()) as connection:
        return fence.once(connection, lambda: 7, payload=1)


@contextmanager
def other_path(postgres: str) -> Iterator[str]:
    """A database whose fence is in another schema."""
    schema = f"other_{uuid.uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        fence.create_table(connection, schema=schema)
        yield psycopg.conninfo.make_conninfo(postgres, options=f"-csearch_path={schema}")
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


def test_a_step_and_its_undo_on_two_search_paths(postgresql: Database, postgres: str) -> None:
    """Each finds a table of its own, so the undo finds no record. With `schema=` both have one."""
    (schema,) = postgresql.query("SELECT current_schema()")[0]
    with other_path(postgres) as where:
        other, balance, key = Database("postgresql", where), f'"{schema}".account', new_key()

        def change(database: Database, amount: int, **options: Any) -> Any:
            with transaction(database.connect()) as connection:
                update = f"UPDATE {balance} SET balance = balance + {amount}"
                return fence.once(connection, lambda: connection.execute(update).rowcount, payload=1, **options)

        assert environment("do", key).run(lambda: change(postgresql, -10)) == 1
        assert environment("undo", key).run(lambda: change(other, 10)) is None
        assert postgresql.balance == 90
        key = new_key()
        assert environment("do", key).run(lambda: change(postgresql, -10, schema=schema)) == 1
        assert environment("undo", key).run(lambda: change(other, 10, schema=schema)) == 1
        assert postgresql.balance == 90
        other.close()


# A table that is not there


@pytest.fixture
def bare(database: Database) -> Database:
    """A database without the fence's table."""
    with transaction(database.connect()) as connection:
        connection.cursor().execute("DROP TABLE temporal_saga_fence")
    return database


def check(told: Any) -> None:
    """A migration fixes it: the next attempt has to come, and must not say that the statement was rejected."""
    assert type(told.value) is RuntimeError
    assert classify(told.value) is FailureKind.BUG
    assert FailureKind.BUG.retryable
    assert isinstance(told.value.__cause__, (sqlite3.OperationalError, psycopg.errors.UndefinedTable))


MISSING = r"^table temporal_saga_fence is missing .*: call fence\.create_table(_async)?\(connection\) before the"


@pytest.mark.parametrize("phase", ["do", "undo", "push", "key"])
async def test_a_missing_table_is_named_on_every_path(bare: Database, phase: str) -> None:
    options: dict[str, Any] = {"payload": 1, **({"key": "a"} if phase == "key" else {})}
    where = environment("do" if phase == "key" else phase, new_key())
    for guard in (True, False):
        with tells(RuntimeError, MISSING) as told:
            where.run(lambda: fence.once(bare.connect(), lambda: 1, guard=guard, **options))  # noqa: B023
        check(told)
        async with connect(bare) as connection:

            async def attempt(connection: Any = connection, guard: bool = guard) -> Any:
                return await fence.once_async(connection, connection.commit, guard=guard, **options)

            with tells(RuntimeError, MISSING) as told:
                await where.run(attempt)
            check(told)
    with tells(RuntimeError, MISSING) as told:
        fence.purge(bare.connect(), older_than=NO_TIME, retry_horizon=NO_TIME)
    check(told)
    async with connect(bare) as connection:
        with tells(RuntimeError, MISSING) as told:
            await fence.purge_async(connection, older_than=NO_TIME, retry_horizon=NO_TIME)
        check(told)


async def test_a_missing_table_is_named_with_sqlalchemy(bare: Database) -> None:
    url = "sqlite://" if bare.dialect == "sqlite" else "postgresql+psycopg://"
    engine = sqlalchemy.create_engine(url, creator=bare.connect)
    with engine.connect() as connection, tells(RuntimeError, MISSING) as told:
        fence.once(connection.connection, lambda: 1, payload=1, key="a")
    check(told)
    engine.dispose()

    async def creator() -> Any:
        return await psycopg.AsyncConnection.connect(bare.where)

    asyncio_engine = (
        sqlalchemy_asyncio.create_async_engine(f"sqlite+aiosqlite:///{bare.where}")
        if bare.dialect == "sqlite"
        else sqlalchemy_asyncio.create_async_engine("postgresql+psycopg://", async_creator=creator)
    )
    async with asyncio_engine.connect() as asyncio_connection:
        raw: Any = await asyncio_connection.get_raw_connection()
        with tells(RuntimeError, MISSING) as told:
            await fence.once_async(raw, asyncio_connection.commit, payload=1, key="a")
        check(told)
    await asyncio_engine.dispose()


def test_a_missing_table_is_named_in_a_pipeline(postgresql: Database) -> None:
    with transaction(postgresql.connect()) as connection:
        connection.execute("DROP TABLE temporal_saga_fence")
    connection = postgresql.connect()
    with tells(RuntimeError, MISSING) as told, connection.pipeline():
        fence.once(connection, lambda: 1, payload=1, key="a")
    check(told)


def test_a_table_of_the_user_s_own_that_is_missing(database: Database) -> None:
    """An effect's own error stays as it is."""

    def effect(connection: Any) -> None:
        connection.cursor().execute("UPDATE nowhere SET x = 1")

    with pytest.raises((sqlite3.OperationalError, psycopg.errors.UndefinedTable), match="nowhere"):
        Bank(database).run("do", new_key(), effect, None)


def test_a_step_goes_on_once_the_table_is_made(bare: Database) -> None:
    """The saga waits for the migration, and loses nothing: the driver's own error would be classified as final."""
    bank, attempts = Bank(bare), list[int]()

    @activity.defn
    @classify_errors()
    def take() -> Any:
        attempts.append(activity.info().attempt)
        if len(attempts) == 3:
            with transaction(bare.connect()) as connection:
                fence.create_table(connection)
        with transaction(bare.connect()) as connection:
            return fence.once(connection, lambda: bank._add(connection, -10), payload=1)

    @activity.defn
    def give_back() -> None: ...

    simulation = simulate(Take.run, activities=[take, give_back])
    assert (simulation.status, attempts) == ("completed", [1, 2, 3])


# Other databases


def mysql() -> Any:
    connection: Any = pymysql.connections.Connection
    return connection(defer_connect=True)


def module_of(name: str) -> Any:
    return type("Connection", (), {"__module__": name, "cursor": None, "commit": None})()


@pytest.mark.parametrize(
    ("connection", "name"),
    [
        (mysql(), "MySQL"),
        (module_of("mysql.connector.connection_cext"), "MySQL"),
        (module_of("MySQLdb.connections"), "MySQL"),
        (module_of("aiomysql.connection"), "MySQL"),
        (module_of("mariadb.connections"), "MariaDB"),
        (module_of("oracledb.connection"), "Oracle"),
        (module_of("pymssql._pymssql"), "SQL Server"),
        (module_of("_duckdb"), "DuckDB"),
        (module_of("pymongo.synchronous.mongo_client"), "MongoDB"),
        (module_of("redis.client"), "Redis"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"dialect": "postgresql"}, {"dialect": "mysql"}])
def test_a_database_that_is_not_supported_is_told_by_its_name(
    connection: Any, name: str, options: dict[str, Any]
) -> None:
    """Never: say sqlite or postgresql. Whoever did would get errors of syntax."""
    calls: list[Callable[[], object]] = [
        lambda: fence.once(connection, lambda: 1, payload=1, key="a", **options),
        lambda: fence.create_table(connection, **options),
        lambda: fence.purge(connection, older_than=NO_TIME, retry_horizon=NO_TIME, **options),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"a connection to {name}: the fence supports SQLite and PostgreSQL"):
            call()


def test_mysql_behind_sqlalchemy() -> None:
    connection = mysql()
    proxy = type("_ConnectionFairy", (), {"__module__": "sqlalchemy.pool.base", "driver_connection": connection})()
    with pytest.raises(TypeError, match=r"pymysql\.connections\.Connection is a connection to MySQL"):
        fence.create_table(proxy)


@pytest.mark.parametrize(
    ("dialect", "name"),
    [("mysql", "MySQL"), ("MySQL", "MySQL"), ("mariadb", "MariaDB"), ("oracle", "Oracle"), ("mssql", "SQL Server")],
)
def test_a_dialect_that_is_not_supported_is_told_by_its_name(database: Database, dialect: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"^dialect='{dialect}': {name} is not supported: the fence supports SQLite"):
        fence.create_table(module_of("pyodbc"), dialect=dialect)
