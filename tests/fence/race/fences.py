"""What a round puts to the test: the fence, none, and fences that are broken in one way each."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from temporal_saga import current_step, fence
from temporal_saga.errors import Fenced

Connection = sqlite3.Connection | psycopg.Connection[Any]
Effect = Callable[[], object]
Once = Callable[[Connection, Effect], object]

PAYLOAD = {"from": "customer", "amount": 10}


def real(connection: Connection, effect: Effect) -> object:
    return fence.once(connection, effect, payload=PAYLOAD)


async def real_async(connection: Any, effect: Callable[[], Awaitable[object]]) -> object:
    return await fence.once_async(connection, effect, payload=PAYLOAD)


def none(connection: Connection, effect: Effect) -> object:
    return effect()


def no_tombstone(connection: Connection, effect: Effect) -> object:
    """An undo that has nothing to undo leaves no trace."""
    result = fence.once(connection, effect, payload=PAYLOAD)
    if current_step().phase == "undo":
        _forget(connection, "state = 'fenced'")
    return result


def forgets_the_undo(connection: Connection, effect: Effect) -> object:
    """The record goes with the undo, as if there were nothing more to remember."""
    result = fence.once(connection, effect, payload=PAYLOAD)
    if current_step().phase == "undo":
        _forget(connection, "state = 'undone'")
    return result


def trusts_the_undo(connection: Connection, effect: Effect) -> object:
    """An undo runs whether its step did or not."""
    return fence.once(connection, effect, payload=PAYLOAD, guard=False)


def record_first(connection: Connection, effect: Effect) -> object:
    """The record is committed, then the effect happens in a transaction of its own."""
    due = False

    def noted() -> None:
        nonlocal due
        due = True

    fence.once(connection, noted, payload=PAYLOAD)
    connection.commit()
    return effect() if due else None


def looks_first(connection: Connection, effect: Effect) -> object:
    """Written by hand, and right unless the two meet: the undo looks for the step's record, then acts on that."""
    step = current_step()
    key = f"'{step.forward_key}'"
    if step.phase == "do":
        claimed = (
            connection.execute(f"INSERT INTO by_hand VALUES ({key}, 'applied') ON CONFLICT DO NOTHING").rowcount == 1
        )
        if claimed:
            return effect()
    row = connection.execute(f"SELECT state FROM by_hand WHERE key = {key}").fetchone()
    if step.phase == "do":
        if row is not None and row[0] == "applied":
            return None
        raise Fenced("undone already")
    if row is None:
        connection.execute(f"INSERT INTO by_hand VALUES ({key}, 'undone') ON CONFLICT DO NOTHING")
    elif connection.execute(f"UPDATE by_hand SET state = 'undone' WHERE key = {key} AND state = 'applied'").rowcount:
        return effect()
    return None


def _forget(connection: Connection, what: str) -> None:
    connection.execute(f"DELETE FROM temporal_saga_fence WHERE key = '{current_step().forward_key}' AND {what}")


FENCES: dict[str, Once] = {
    once.__name__: once
    for once in (real, none, no_tombstone, forgets_the_undo, trusts_the_undo, record_first, looks_first)
}
