"""What the fence does in a transaction: claim the step's record, run the effect, keep its result.

Written once, as coroutines. With a blocking connection they never wait, and `run_blocking` runs them.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from temporalio import activity

from ._fence_database import Database, text
from ._identity import Step
from .errors import Conflict, Fenced, FenceMisuse, KeyMisuse


class Record(NamedTuple):
    """A row of the table; as the statement reads it."""

    state: str
    payload: str | None
    result: str | None
    undo_payload: str | None
    undo_result: str | None


@dataclass(frozen=True)
class Once:
    """One call of the fence.

    Attributes:
        database: The user's.
        step: What the activity runs for.
        payload: The hash of its payload.
        effect: Runs the user's effect.
        encode: Makes the result a str.
        decode: Makes it a result again.
    """

    database: Database
    step: Step
    payload: str
    effect: Callable[[], Awaitable[Any]]
    encode: Callable[[Any], str]
    decode: Callable[[str], Any]

    async def do(self) -> Any:
        """Run the effect of a step, or of what was pushed by hand, unless there is a record."""
        database, key, statements = self.database, self.step.key, self.database.statements
        await database.check_transaction()
        if not await database.claim(key, self.payload):
            record = await self._record(key)
            if record.state != "applied":
                raise Fenced(f"{self.step.name} ({key}) came after its undo: nothing was done")
            return self._first_result(record.payload, record.result)
        return await self._take_effect(key, statements.keep_result, [statements.unclaim])

    async def undo(self, key: str, *, guard: bool) -> Any:
        """Run the effect of an undo, if the step with that key has a record that says it applied, or unguarded."""
        database, statements = self.database, self.database.statements
        await database.check_transaction()
        state = await database.claim_undo(key, self.payload, guard=guard)
        if state is None:
            record = await self._record(key)
            return self._first_result(record.undo_payload, record.undo_result)
        if state == "fenced":
            _keys_of_attempt().add(self.step.key)
            return None
        return await self._take_effect(key, statements.keep_undo_result, [statements.restore, statements.unclaim_undo])

    async def _take_effect(self, key: str, keep_result: str, take_back: list[str]) -> Any:
        _keys_of_attempt().add(self.step.key)
        try:
            result = await self.effect()
        except BaseException:
            # For who catches it and commits all the same: the record of an effect that failed must not stand.
            if self.database.transaction() in ("open", "unknown"):
                with suppress(Exception):  # in PostgreSQL whatever fails here has ended the transaction
                    for statement in take_back:
                        await self.database.execute(statement, key)
            raise
        state = self.database.transaction()
        if state == "none":
            # What was committed may have its record or not: the next attempt would lose the result, or do it again.
            raise FenceMisuse(f"the effect of {self.step.name} ended the transaction: leave that to the caller of once")
        if state == "aborted":
            # A commit would roll back, and say nothing.
            raise RuntimeError(f"the effect of {self.step.name} caught a database error, which aborted the transaction")
        if result is None and self.database.dialect == "postgresql":
            return None
        kept = None if result is None else self._encoded(result)
        answer = None if kept is None else self.decode(kept)  # what a repeat will return: let a difference show at once
        # None is kept too in SQLite, where it costs no round trip: an error may have rolled all back (its automatic
        # rollback, or INSERT OR ROLLBACK), which the effect caught, and went on in a new transaction.
        if await self.database.execute(keep_result, kept, key) == 0:
            raise RuntimeError(
                f"the effect of {self.step.name} rolled its record back: leave that to the caller of once"
            )
        return answer

    async def _record(self, key: str) -> Record:
        row = await self.database.fetch(self.database.statements.read, key)
        if row is None:  # purged since the statement before
            raise Conflict(f"the record of {self.step.name} ({key}) has just been deleted")
        return Record(*map(text, row))

    def _first_result(self, payload: str | None, result: str | None) -> Any:
        keys = _keys_of_attempt()
        if self.step.key in keys:
            raise RuntimeError(
                f"a second effect in one attempt of {self.step.name}, whose record is that of the first: make them one "
                "effect, or two steps (in a test, each attempt has an ActivityEnvironment of its own)"
            )
        keys.add(self.step.key)
        if payload != self.payload:
            raise KeyMisuse(f"{self.step.name} ({self.step.key}) was called before with another payload")
        return None if result is None else self.decode(result)

    def _encoded(self, result: Any) -> str:
        try:
            kept: Any = self.encode(result)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"the result of {self.step.name}, {type(result).__qualname__}, cannot be kept for a repeat: "
                "return what JSON can hold, or give encode= and decode="
            ) from error
        if not isinstance(kept, str):
            raise TypeError(f"encode= returns a str, not {type(kept).__qualname__}")
        return kept


# The keys that each attempt has fenced an effect under, by the id of its `activity.info()`, which lives as long as the
# attempt does. A second effect would be taken for a repeat of the first, and left out in silence. A transaction that is
# rolled back and tried again finds no record; if a commit's reply was lost it does, and the next attempt settles it.
_attempts: dict[int, tuple[weakref.ref[activity.Info], set[str]]] = {}


def _keys_of_attempt() -> set[str]:
    info = activity.info()
    number = id(info)
    if number not in _attempts:
        _attempts[number] = (weakref.ref(info, lambda _: _attempts.pop(number, None)), set())
    return _attempts[number][1]
