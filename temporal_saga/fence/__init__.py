"""The fence: makes a step that writes to a database happen once, and its undo only if the step happened.

    with connection:
        return fence.once(connection, lambda: take_money(connection, order), payload=order)

One small table in your database, written in your transaction, so that an effect and its record commit together:

    a step        no record: the effect runs            applied: its first result        undone, fenced: `Fenced`
    its undo      no record: nothing runs, but the      applied: the effect runs         undone: its first result
                  record says fenced: a tombstone                                        fenced: nothing runs

A step has one record, under its key, and its undo knows that key too. So a repeat changes nothing, an undo that comes
first has nothing to undo, and a step that comes after its undo is refused.

With `key=` an effect has its own record, under a name that you choose. It happens once, and has no undo.

No statement here begins or ends a transaction, or makes a savepoint.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, TypeVar, cast, get_args

from temporal_saga._identity import current_step

from ._database import Connection, Database, Dialect, create_statements, run_blocking
from ._once import Once, of_key, of_step
from ._payload import payload_hash

__all__ = ["DDL", "create_table", "create_table_async", "once", "once_async", "purge", "purge_async"]

T = TypeVar("T")

DDL: Mapping[Dialect, str] = {
    dialect: "".join(f"{statement};\n" for statement in create_statements(dialect)) for dialect in get_args(Dialect)
}
"""The statements of `create_table`, for your own migration."""

# Two workers may start at once: IF NOT EXISTS does not prevent a unique violation in PostgreSQL's catalog.
_LOCK = "SELECT pg_advisory_xact_lock(7237089437214625)"


def once(
    connection: Connection,
    effect: Callable[[], T],
    *,
    payload: object,
    key: str | None = None,
    guard: bool = True,
    schema: str | None = None,
    dialect: Dialect | None = None,
    encode: Callable[[Any], str] = json.dumps,
    decode: Callable[[str], Any] = json.loads,
) -> T | None:
    """Run an effect once, even if the activity is repeated, late or out of order.

    Make this the first call in a transaction, and then commit, even if it returns None: an undo that found nothing to
    undo has left a record. Roll back on any error.

    Args:
        connection: A connection of sqlite3 or psycopg, also one that SQLAlchemy's pool wraps. It is in a transaction,
            or begins one with its first statement.
        effect: A function that writes with the same connection. If it raises, its record is taken back.
        payload: The data of the effect, the same at each attempt: JSON types, dataclasses, pydantic models, Decimal,
            datetime, UUID, Enum, bytes. The table gets its hash, not the payload.
        key: A name for the effect, instead of the activity's step. The effect then happens once in this table, no
            matter which activity, attempt or run makes the call. `business_key(...)` is a good key. An effect with a
            key needs no saga; in a step's activity it makes a second record. Nothing undoes it. In a compensation it
            works the same way, and it is never guarded.
        guard: For an undo: trust that a step without a record has had no effect. Set False if the step does not use
            the fence in the same table; then the undo runs in any case, once.
        schema: The place of the table: a PostgreSQL schema, or the name of an attached SQLite database, spelled as the
            database spells it. By default the search path finds the table.
        dialect: "sqlite" or "postgresql", if the connection does not show which.
        encode: Turns the result into a str, which is kept. None is not encoded.
        decode: Turns the str back into a result.

    Returns:
        The effect's result, from this call or from the first one, as `decode` reads it; None from an undo that had
        nothing to undo.

    Raises:
        Fenced: The step was undone before. Nothing was done.
        KeyMisuse: The step, its undo, or the key was used with another payload before. Nothing was done.
        FenceMisuse: The effect ended the transaction, now or in an earlier attempt. Not retried; a RuntimeError.
        RuntimeError: In autocommit mode; if the table is missing; for a second effect in one activity; without `key=`,
            outside an activity that a saga started.
        TypeError: For a connection, a key, a payload or a result that the fence cannot use.
        ValueError: For a schema or a dialect that the fence cannot use.
    """

    async def run() -> Any:
        result = effect()
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()  # or it would warn that no one awaited it
            raise TypeError("an effect that is awaited needs `await once_async(...)` and an asyncio connection")
        return result

    call = _call(key, guard, payload, run, encode, decode)
    return cast("T | None", run_blocking(call(_database_of(connection, dialect, schema, blocking=True))))


async def once_async(
    connection: Connection,
    effect: Callable[[], Awaitable[T]],
    *,
    payload: object,
    key: str | None = None,
    guard: bool = True,
    schema: str | None = None,
    dialect: Dialect | None = None,
    encode: Callable[[Any], str] = json.dumps,
    decode: Callable[[str], Any] = json.loads,
) -> T | None:
    """Do what `once` does, with a connection of psycopg's `AsyncConnection` or aiosqlite.

    Args:
        connection: As for `once`.
        effect: As for `once`, but it returns an awaitable.
        payload: As for `once`.
        key: As for `once`.
        guard: As for `once`.
        schema: As for `once`.
        dialect: As for `once`.
        encode: As for `once`.
        decode: As for `once`.

    Returns:
        The same as `once`.

    Raises:
        Fenced: As for `once`, like all the other errors.
    """

    async def run() -> Any:
        result = effect()
        if not inspect.isawaitable(result):
            raise TypeError("an effect of `once_async` must return an awaitable: make it an `async def`")
        return await result

    call = _call(key, guard, payload, run, encode, decode)
    return cast("T | None", await call(_database_of(connection, dialect, schema, blocking=False)))


def create_table(connection: Connection, *, schema: str | None = None, dialect: Dialect | None = None) -> None:
    """Create the fence's table if it does not exist. Commit afterwards.

    Without `schema=`, PostgreSQL creates the table in the first schema of the search path. A lock is held until the
    commit, so that workers that start at the same time take turns.

    Args:
        connection: As for `once`, in any mode.
        schema: As for `once`; it must exist.
        dialect: As for `once`.
    """
    run_blocking(_create_table(_database_of(connection, dialect, schema, blocking=True), schema))


async def create_table_async(
    connection: Connection, *, schema: str | None = None, dialect: Dialect | None = None
) -> None:
    """Do what `create_table` does.

    Args:
        connection: As for `once_async`, in any mode.
        schema: As for `create_table`.
        dialect: As for `once`.
    """
    await _create_table(_database_of(connection, dialect, schema, blocking=False), schema)


def purge(
    connection: Connection,
    *,
    older_than: timedelta,
    retry_horizon: timedelta,
    limit: int | None = None,
    schema: str | None = None,
    dialect: Dialect | None = None,
) -> int:
    """Delete the records whose last change is older than an age, and return how many. Commit afterwards.

    Args:
        connection: As for `once`, in any mode; also outside activities.
        older_than: The age, by the server's clock.
        retry_horizon: The longest time from a step's first attempt to the last attempt of its undo. That is how long
            your longest saga runs, with the retries of its compensations. After that time nobody needs the record. An
            effect with `key=` may happen again once its record is gone.
        limit: The largest number of records to delete, oldest first. Call this function and commit until it returns 0.
            Then a table of millions is not locked for long.
        schema: As for `once`.
        dialect: As for `once`.

    Raises:
        ValueError: If `older_than` is shorter than `retry_horizon`. Without its record, a repeat would run the effect
            again, an undo would find nothing to undo, and a late step would not be refused.
    """
    seconds = _checked_age(older_than, retry_horizon)
    return cast("int", run_blocking(_purge(_database_of(connection, dialect, schema, blocking=True), seconds, limit)))


async def purge_async(
    connection: Connection,
    *,
    older_than: timedelta,
    retry_horizon: timedelta,
    limit: int | None = None,
    schema: str | None = None,
    dialect: Dialect | None = None,
) -> int:
    """Do what `purge` does.

    Args:
        connection: As for `once_async`, in any mode.
        older_than: As for `purge`.
        retry_horizon: As for `purge`.
        limit: As for `purge`.
        schema: As for `once`.
        dialect: As for `once`.
    """
    seconds = _checked_age(older_than, retry_horizon)
    return await _purge(_database_of(connection, dialect, schema, blocking=False), seconds, limit)


def _call(
    key: str | None,
    guard: bool,
    payload: object,
    run: Callable[[], Awaitable[Any]],
    encode: Callable[[Any], str],
    decode: Callable[[str], Any],
) -> Callable[[Database], Coroutine[Any, Any, Any]]:
    if key is not None:
        subject, is_undo = of_key(key), False
    else:
        step = current_step()
        # A compensation pushed by hand has no step that could have a record: it is an effect of its own.
        subject, is_undo = of_step(step), step.phase == "undo"
    hashed = payload_hash(payload)

    def called(database: Database) -> Coroutine[Any, Any, Any]:
        call = Once(database, subject, hashed, run, encode, decode)
        return call.undo(guard=guard) if is_undo else call.do()

    return called


def _database_of(connection: Connection, dialect: Dialect | None, schema: str | None, *, blocking: bool) -> Database:
    database = Database(connection, dialect, schema)
    if database.blocking != blocking:
        raise TypeError(
            "an asyncio connection needs the function whose name ends in _async"
            if blocking
            else "a blocking connection needs the function without _async, in an activity that runs in threads"
        )
    return database


async def _create_table(database: Database, schema: str | None) -> None:
    statements = create_statements(database.dialect, schema)
    if database.dialect == "postgresql":
        statements = ["; ".join([_LOCK, *statements])]  # sent together, they are one transaction in autocommit mode too
    for statement in statements:
        await database.execute(statement)


def _checked_age(older_than: timedelta, retry_horizon: timedelta) -> float:
    if older_than < retry_horizon:
        raise ValueError(
            f"older_than={older_than} is shorter than retry_horizon={retry_horizon}: without its record a repeat would "
            "run the effect again, an undo would find nothing to undo, and a late step would not be refused"
        )
    if older_than < timedelta(0):
        raise ValueError(f"older_than={older_than}: an age must not be negative")
    return older_than.total_seconds()


async def _purge(database: Database, seconds: float, limit: int | None) -> int:
    statements = database.statements
    if database.dialect == "sqlite":
        # SQLite's spelling of an age, and of no limit.
        return await database.execute(statements.purge, f"{-seconds:.3f} seconds", -1 if limit is None else limit)
    row = await database.fetch(statements.purge, seconds, limit)
    return 0 if row is None else int(row[0])
