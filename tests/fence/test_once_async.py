"""The same with asyncio: aiosqlite and psycopg's AsyncConnection."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any

import aiosqlite
import psycopg
import psycopg_pool
import pytest
from psycopg.rows import dict_row
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from temporal_saga import fence
from temporal_saga.errors import Declined, Fenced, KeyMisuse
from tests.fence.support import Bank, Database, environment, new_key

TAKE = "UPDATE account SET balance = balance - 10"


def connect(database: Database, **options: Any) -> AbstractAsyncContextManager[Any]:
    return opened(database, options)


@asynccontextmanager
async def opened(database: Database, options: dict[str, Any]) -> AsyncIterator[Any]:
    if database.dialect == "sqlite":
        connection: Any = await aiosqlite.connect(database.where, **options)
    else:
        connection = await psycopg.AsyncConnection.connect(database.where, **options)
    try:
        yield connection
    finally:
        await connection.close()


async def take(connection: Any, key: str, *, phase: str = "do", payload: object = 1, **options: Any) -> Any:
    """Run the fence in an activity's attempt, without a transaction of its own."""

    async def effect() -> str:
        await connection.execute(TAKE)
        return "taken"

    async def attempt() -> Any:
        return await fence.once_async(connection, effect, payload=payload, **options)

    return await environment(phase, key).run(attempt)


async def check_all_paths(connection: Any, commit: Any) -> None:
    key, other = new_key(), new_key()
    assert await take(connection, key) == "taken"
    await commit()
    assert await take(connection, key) == "taken"
    with pytest.raises(KeyMisuse):
        await take(connection, key, payload=2)
    assert await take(connection, key, phase="undo") == "taken"
    await commit()
    assert await take(connection, key, phase="undo") == "taken"
    assert await take(connection, other, phase="undo") is None
    await commit()
    with pytest.raises(Fenced):
        await take(connection, other)
    await commit()


async def test_all_paths(database: Database) -> None:
    async with connect(database) as connection:
        await check_all_paths(connection, connection.commit)
    assert database.balance == 80


async def test_unguarded_and_pushed(database: Database) -> None:
    async with connect(database) as connection:
        for phase in ("undo", "push"):
            key = new_key()
            for _ in range(2):
                assert await take(connection, key, phase=phase, guard=False) == "taken"
            await connection.commit()
    assert database.balance == 80


async def test_an_error_that_is_swallowed_leaves_no_record(database: Database) -> None:
    async def attempt(connection: Any) -> None:
        async def effect() -> None:
            raise Declined("no")

        with pytest.raises(Declined):
            await fence.once_async(connection, effect, payload=1)
        await connection.commit()

    async with connect(database) as connection:
        await environment("do", new_key()).run(attempt, connection)
    assert database.state is None


async def test_a_cancelled_effect_that_is_committed_all_the_same_leaves_no_record(database: Database) -> None:
    async def attempt(connection: Any) -> None:
        async def effect() -> None:
            await asyncio.sleep(60)

        task = asyncio.create_task(fence.once_async(connection, effect, payload=1))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await connection.commit()

    async with connect(database) as connection:
        await environment("do", new_key()).run(attempt, connection)
    assert database.state is None


async def test_a_statement_that_is_cancelled_while_it_runs(postgresql: Database) -> None:
    async def attempt(connection: Any) -> None:
        async def effect() -> None:
            await connection.execute("SELECT pg_sleep(60)")

        async with connection.transaction():
            await asyncio.wait_for(fence.once_async(connection, effect, payload=1), 0.3)

    key = new_key()
    async with connect(postgresql) as connection:
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await environment("do", key).run(attempt, connection)
        assert postgresql.state is None
        assert await take(connection, key) == "taken"


async def test_autocommit(database: Database) -> None:
    options: dict[str, Any] = {"isolation_level": None} if database.dialect == "sqlite" else {"autocommit": True}
    async with connect(database, **options) as connection:
        with pytest.raises(RuntimeError, match="autocommit mode"):
            await take(connection, new_key())
        assert database.state is None
        await connection.execute("BEGIN")
        await take(connection, new_key())
        await connection.rollback()
    assert database.balance == 100


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3's autocommit= is new in Python 3.12")
async def test_autocommit_since_python_3_12(sqlite: Database) -> None:
    async with connect(sqlite, autocommit=True) as connection:
        with pytest.raises(RuntimeError, match="autocommit mode"):
            await take(connection, new_key())
    async with connect(sqlite, autocommit=False) as connection:
        await check_all_paths(connection, connection.commit)
    assert sqlite.balance == 80


async def test_row_factories(database: Database) -> None:
    async with connect(database) as connection:
        connection.row_factory = dict_row if database.dialect == "postgresql" else lambda cursor, row: {"one": 1}
        await check_all_paths(connection, connection.commit)


async def test_a_cursor_factory(postgresql: Database) -> None:
    async with connect(postgresql, cursor_factory=psycopg.AsyncRawCursor) as connection:
        await check_all_paths(connection, connection.commit)


async def test_a_pipeline(postgresql: Database) -> None:
    key = new_key()
    async with connect(postgresql) as connection:
        for _ in range(2):
            async with connection.transaction(), connection.pipeline():
                assert await take(connection, key) == "taken"
    assert postgresql.balance == 90


async def test_a_pool_of_psycopg(postgresql: Database) -> None:
    async with psycopg_pool.AsyncConnectionPool(postgresql.where, min_size=1, open=False) as pool:
        key = new_key()
        for _ in range(2):
            async with pool.connection() as connection:
                assert await take(connection, key) == "taken"
    assert postgresql.balance == 90


async def test_a_session_of_sqlalchemy(database: Database) -> None:
    if database.dialect == "sqlite":
        engine = sqlalchemy_asyncio.create_async_engine(f"sqlite+aiosqlite:///{database.where}")
    else:

        async def creator() -> Any:
            return await psycopg.AsyncConnection.connect(database.where)

        engine = sqlalchemy_asyncio.create_async_engine("postgresql+psycopg://", async_creator=creator)
    key = new_key()
    for _ in range(2):
        async with sqlalchemy_asyncio.AsyncSession(engine) as session, session.begin():
            raw = await (await session.connection()).get_raw_connection()

            async def attempt(session: Any = session, raw: Any = raw) -> Any:
                async def effect() -> str:
                    await (await session.connection()).exec_driver_sql(TAKE)
                    return "taken"

                return await fence.once_async(raw, effect, payload=1)

            assert await environment("do", key).run(attempt) == "taken"
            with pytest.raises(TypeError, match="pass the driver's own"):
                await take(session, new_key())
    await engine.dispose()
    assert database.balance == 90


async def test_connection_and_function_are_of_one_kind(database: Database) -> None:
    async def in_async(connection: Any) -> None:
        await fence.once_async(connection, asyncio.sleep, payload=1)  # type: ignore[arg-type]

    async with connect(database) as connection:
        with pytest.raises(TypeError, match="ends in _async"):
            environment("do", new_key()).run(lambda: fence.once(connection, int, payload=1))
    with pytest.raises(TypeError, match="without _async, in an activity that runs in threads"):
        await environment("do", new_key()).run(in_async, database.connect())


async def test_an_effect_that_cannot_be_awaited(database: Database) -> None:
    async def attempt(connection: Any) -> None:
        await fence.once_async(connection, lambda: 1, payload=1)  # type: ignore[arg-type, return-value]

    async with connect(database) as connection:
        with pytest.raises(TypeError, match="make it an `async def`"):
            await environment("do", new_key()).run(attempt, connection)
        await connection.rollback()
    assert database.state is None


async def test_a_table_and_its_purge(database: Database) -> None:
    async with connect(database) as connection:
        await connection.execute("DROP TABLE temporal_saga_fence")
        await fence.create_table_async(connection)
        await take(connection, new_key())
        await connection.commit()
        await asyncio.sleep(0.01)
        horizon = timedelta(milliseconds=1)
        assert await fence.purge_async(connection, older_than=horizon, retry_horizon=horizon) == 1
        await connection.commit()
        with pytest.raises(ValueError, match="shorter than retry_horizon"):
            await fence.purge_async(connection, older_than=horizon, retry_horizon=2 * horizon)
    assert Bank(database).database.state is None
