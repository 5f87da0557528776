"""The fence: makes a step that writes to a database happen once, and its undo only if it did.

    with connection:
        return fence.once(connection, lambda: take_money(connection, order), payload=order)

One small table in your database, written in your transaction, so that an effect and its record commit together:

    a step        no record: the effect runs            applied: its first result        undone, fenced: `Fenced`
    its undo      no record: nothing runs, but the      applied: the effect runs         undone: its first result
                  record says fenced: a tombstone                                        fenced: nothing runs

One record per step, under its key, which the undo knows as well. What was made with it: a repeat changes nothing, an
undo that comes first has nothing to undo, and the step that then comes late is refused.

No statement here begins or ends a transaction, nor makes a savepoint.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, TypeVar, cast

from ._fence_database import STATEMENTS, Connection, Database, Dialect, create_statements, run_blocking
from ._fence_once import Once
from ._fence_payload import payload_hash
from ._identity import current_step

__all__ = ["DDL", "create_table", "create_table_async", "once", "once_async", "purge", "purge_async"]

T = TypeVar("T")

DDL: Mapping[Dialect, str] = {
    dialect: "".join(f"{statement};\n" for statement in create_statements(dialect)) for dialect in STATEMENTS
}
"""What `create_table` runs, for a migration of your own."""

# Two workers that start at once: IF NOT EXISTS does not keep them from a unique violation in PostgreSQL's catalogue.
_LOCK = "SELECT pg_advisory_xact_lock(7237089437214625)"


def once(
    connection: Connection,
    effect: Callable[[], T],
    *,
    payload: object,
    guard: bool = True,
    dialect: Dialect | None = None,
    encode: Callable[[Any], str] = json.dumps,
    decode: Callable[[str], Any] = json.loads,
) -> T | None:
    """Run the effect of the activity's step once, whatever is repeated, late or out of order.

    Call it first in a transaction, and commit that, also where it returns None: an undo that found nothing to undo
    has left a record. Roll back on any error.

    Args:
        connection: Of sqlite3 or psycopg, as SQLAlchemy's pool wraps it too; within a transaction, or one that begins
            with the first statement.
        effect: Writes with the same connection. If it raises, its record is taken back.
        payload: What the effect is made of, the same at each attempt: JSON types, dataclasses, pydantic models,
            Decimal, datetime, UUID, Enum, bytes. Its hash is kept, not the payload.
        guard: An undo only: trust that a step without a record has had no effect. Say False if the step does not use
            the fence on the same database; the undo then runs in any case, once.
        dialect: "sqlite" or "postgresql", where it cannot be told from the connection.
        encode: Makes the result a str, to be kept. None is not encoded.
        decode: Makes it a result again.

    Returns:
        The effect's result, of this or of the first time, as `decode` reads it; None from an undo that had nothing to
        undo.

    Raises:
        Fenced: The step was undone before, or instead. Nothing was done.
        KeyMisuse: The step, or its undo, was called with another payload before. Nothing was done.
        FenceMisuse: The effect ended the transaction. Not retried; a RuntimeError.
        RuntimeError: In autocommit mode; for a second effect in one activity; outside an activity that a saga started.
        TypeError: For a connection, a payload or a result that it cannot use.
    """
    step, hashed, database = current_step(), payload_hash(payload), _database(connection, dialect, blocking=True)

    async def run() -> Any:
        result = effect()
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()  # or it would warn that no one awaited it
            raise TypeError("an effect that is awaited takes `await once_async(...)` and an asyncio connection")
        return result

    call = Once(database, step, hashed, run, encode, decode)
    return cast("T | None", run_blocking(_called(call, guard)))


async def once_async(
    connection: Connection,
    effect: Callable[[], Awaitable[T]],
    *,
    payload: object,
    guard: bool = True,
    dialect: Dialect | None = None,
    encode: Callable[[Any], str] = json.dumps,
    decode: Callable[[str], Any] = json.loads,
) -> T | None:
    """Do what `once` does, with a connection of psycopg's `AsyncConnection` or aiosqlite.

    Args:
        connection: As for `once`.
        effect: As for `once`; it returns an awaitable.
        payload: As for `once`.
        guard: As for `once`.
        dialect: As for `once`.
        encode: As for `once`.
        decode: As for `once`.

    Returns:
        As `once` does.

    Raises:
        Fenced: As `once` does, and the others.
    """
    step, hashed, database = current_step(), payload_hash(payload), _database(connection, dialect, blocking=False)

    async def run() -> Any:
        result = effect()
        if not inspect.isawaitable(result):
            raise TypeError("an effect of `once_async` returns an awaitable: make it an `async def`")
        return await result

    call = Once(database, step, hashed, run, encode, decode)
    return cast("T | None", await _called(call, guard))


def create_table(connection: Connection, *, dialect: Dialect | None = None) -> None:
    """Create the fence's table, unless it is there; commit it.

    On PostgreSQL it goes where the search path says, and holds a lock until the commit, so that workers that start at
    once take turns.

    Args:
        connection: As for `once`, in any mode.
        dialect: As for `once`.
    """
    run_blocking(_create_table(_database(connection, dialect, blocking=True)))


async def create_table_async(connection: Connection, *, dialect: Dialect | None = None) -> None:
    """Do what `create_table` does.

    Args:
        connection: As for `once_async`, in any mode.
        dialect: As for `once`.
    """
    await _create_table(_database(connection, dialect, blocking=False))


def purge(
    connection: Connection,
    *,
    older_than: timedelta,
    retry_horizon: timedelta,
    limit: int | None = None,
    dialect: Dialect | None = None,
) -> int:
    """Delete the records that nothing has touched for a time, and return how many; commit it.

    Args:
        connection: As for `once`, in any mode; outside of activities too.
        older_than: The age, by the server's clock.
        retry_horizon: The longest time from a step's first attempt to the last one of its undo: how long your longest
            saga runs, with the retries of its compensations. Past it no one asks for the record.
        limit: At most so many, the oldest: call it and commit until it returns 0. A table of millions is then not
            locked for long.
        dialect: As for `once`.

    Raises:
        ValueError: If `older_than` is shorter than `retry_horizon`. Without its record a repeat would run the effect
            again, an undo would find nothing to undo, and a late step would not be refused.
    """
    seconds = _checked_age(older_than, retry_horizon)
    return cast("int", run_blocking(_purge(_database(connection, dialect, blocking=True), seconds, limit)))


async def purge_async(
    connection: Connection,
    *,
    older_than: timedelta,
    retry_horizon: timedelta,
    limit: int | None = None,
    dialect: Dialect | None = None,
) -> int:
    """Do what `purge` does.

    Args:
        connection: As for `once_async`, in any mode.
        older_than: As for `purge`.
        retry_horizon: As for `purge`.
        limit: As for `purge`.
        dialect: As for `once`.
    """
    seconds = _checked_age(older_than, retry_horizon)
    return await _purge(_database(connection, dialect, blocking=False), seconds, limit)


def _called(call: Once, guard: bool) -> Coroutine[Any, Any, Any]:
    # What was pushed by hand has no step that could have a record: it is an effect of its own.
    return (
        call.undo(call.step.forward_key, guard=guard)
        if call.step.phase == "undo" and call.step.forward_key
        else call.do()
    )


def _database(connection: Connection, dialect: Dialect | None, *, blocking: bool) -> Database:
    database = Database(connection, dialect)
    if database.blocking != blocking:
        raise TypeError(
            "an asyncio connection takes the function whose name ends in _async"
            if blocking
            else "a blocking connection takes the function without _async, in an activity that runs in threads"
        )
    return database


async def _create_table(database: Database) -> None:
    statements = create_statements(database.dialect)
    if database.dialect == "postgresql":
        statements = ["; ".join([_LOCK, *statements])]  # sent as one, it is one transaction in autocommit mode too
    for statement in statements:
        await database.execute(statement)


def _checked_age(older_than: timedelta, retry_horizon: timedelta) -> float:
    if older_than < retry_horizon:
        raise ValueError(
            f"older_than={older_than} is shorter than retry_horizon={retry_horizon}: without its record a repeat would "
            "run the effect again, an undo would find nothing to undo, and a step that comes late would not be refused"
        )
    if older_than < timedelta(0):
        raise ValueError(f"older_than={older_than}: an age may not be negative")
    return older_than.total_seconds()


async def _purge(database: Database, seconds: float, limit: int | None) -> int:
    statements = database.statements
    if database.dialect == "sqlite":
        # Its ways to say how long ago, and no limit.
        return await database.execute(statements.purge, f"{-seconds:.3f} seconds", -1 if limit is None else limit)
    row = await database.fetch(statements.purge, seconds, limit)
    return 0 if row is None else int(row[0])
