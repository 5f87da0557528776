"""The work of the fence in a transaction: claim a record, run the effect, keep its result.

All of this is written once, as coroutines. With a blocking connection they never wait, and `run_blocking` runs them.

A claim makes a record `applying`, or `undoing`. The statement that keeps the result makes it `applied`, or `undone`.
Both statements are in the transaction of the effect, so nobody else ever sees the first two states, unless the effect
has committed. That is how a later attempt notices such an effect.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4  # noqa: TID251 - in activities

from temporalio import activity

from temporal_saga._identity import Step
from temporal_saga.errors import Conflict, Fenced, FenceMisuse, KeyMisuse

from ._database import Database, Side, text

_FIX = "leave commit and rollback to the caller of once"


class Record(NamedTuple):
    """A row of the table, as the statement reads it."""

    state: str
    claim: str
    payload: str | None
    result: str | None
    undo_payload: str | None
    undo_result: str | None


class Subject(NamedTuple):
    """The thing that happens once."""

    name: str
    """For messages: the step's name, or the user's `key=`."""
    key: str
    """Also for messages. A compensation has its own key."""
    record: str
    """The record's key."""
    is_step: bool
    """Whether only the activity names it. Then a second effect in that activity would be taken for a repeat."""


def of_step(step: Step) -> Subject:
    """Return the step that the activity runs or undoes. A compensation pushed by hand is an effect of its own."""
    return Subject(step.name, f"{step.name} ({step.key})", step.forward_key or step.key, is_step=True)


def of_key(key: str) -> Subject:
    """Return the effect that the user names.

    Raises:
        TypeError: If the key is not a str, or is empty.
    """
    fix = 'key= must be a non-empty str, such as business_key("refund", order_id)'
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
        raise TypeError(f"{fix}; got {type(key).__name__}")
    if not key:
        raise TypeError(f"{fix}; got an empty str")
    # A record of its own, even if the user gives a step's key: an undo must not find it.
    return Subject(f"key={key!r}", f"key={key!r}", "key:" + key, is_step=False)


@dataclass(frozen=True)
class Once:
    """One call of the fence.

    Attributes:
        database: The user's database.
        subject: The thing that happens once.
        payload: The hash of the payload.
        effect: Runs the user's effect.
        encode: Turns the result into a str.
        decode: Turns the str back into a result.
    """

    database: Database
    subject: Subject
    payload: str
    effect: Callable[[], Awaitable[Any]]
    encode: Callable[[Any], str]
    decode: Callable[[str], Any]

    async def do(self) -> Any:
        """Run the effect, unless there is a record."""
        database, key, claim = self.database, self.subject.record, _new_claim()
        await database.check_transaction()
        if await database.claim(key, claim, self.payload):
            return await self._take_effect(claim, database.statements.step)
        record = await self._record()
        if record.state not in ("applying", "applied"):
            raise Fenced(f"{self.subject.key} came after its undo: nothing was done")
        return self._first_result(record, record.payload, record.result)

    async def undo(self, *, guard: bool) -> Any:
        """Run the effect of an undo if the step's record says that the step applied, or if unguarded."""
        database, key, claim = self.database, self.subject.record, _new_claim()
        await database.check_transaction()
        state = await database.claim_undo(key, claim, self.payload, guard=guard)
        if state is None:
            record = await self._record()
            return self._first_result(record, record.undo_payload, record.undo_result)
        if state == "fenced":
            _claims_of_attempt().add(claim)
            return None
        return await self._take_effect(claim, database.statements.compensation)

    async def _take_effect(self, claim: str, side: Side) -> Any:
        database, key, name = self.database, self.subject.record, self.subject.name
        _claims_of_attempt().add(claim)
        try:
            result = await self.effect()
        except BaseException as error:
            # A cancel goes on as it is: it proves nothing anyway, and its sender waits for it.
            if await self._stands(claim, side) and isinstance(error, Exception):
                raise self._ended() from error
            raise
        state = database.transaction()
        if state in ("none", "returned"):
            raise self._ended()
        if state == "aborted":
            # A commit would roll back without a word.
            raise RuntimeError(f"the effect of {name} caught a database error, which aborted the transaction")
        kept = None if result is None else self._encoded(result)
        answer = (
            None if kept is None else self.decode(kept)
        )  # as a repeat will return it, so that a difference shows at once
        if await database.execute(side.keep, kept, key, claim) == 0:
            raise self._ended()
        return answer

    async def _stands(self, claim: str, side: Side) -> bool:
        """Take the claim back after an error. Return whether it stands anyway, because the effect has committed it.

        Without this, a caller who catches the error and commits would leave a record of an effect that failed.
        """
        database, key, state = self.database, self.subject.record, self.database.transaction()
        if state == "returned":
            return True  # nobody can look any more
        if state == "aborted":
            return False  # nobody can look yet: if it stands, the next attempt finds it
        with suppress(Exception):  # a lost connection; an aborted transaction of a driver that does not tell
            if state != "none" and any([await database.execute(each, key, claim) for each in side.take_back]):
                return False
            # The transaction of the claim is over. If it was rolled back, nothing is left, and the effect may be
            # retried. SQLAlchemy rolls back by itself if a flush fails, and SQLite does if the disk is full.
            row = await database.fetch(database.statements.read, key)
            return row is not None and text(Record(*row).claim) == claim
        return False

    async def _record(self) -> Record:
        row = await self.database.fetch(self.database.statements.read, self.subject.record)
        if row is None:  # purged after the last statement
            raise Conflict(f"the record of {self.subject.key} has just been deleted")
        return Record(*map(text, row))

    def _first_result(self, record: Record, payload: str | None, result: str | None) -> Any:
        claims, is_unfinished = _claims_of_attempt(), record.state in ("applying", "undoing")
        if record.claim in claims and (self.subject.is_step or is_unfinished):
            raise RuntimeError(
                f"a second effect in one attempt of {self.subject.name} would be taken for a repeat of the first: make "
                "them one effect or two steps, or give the second a key= (in a test, each attempt needs an "
                "ActivityEnvironment of its own)"
            )
        claims.add(record.claim)
        if payload != self.payload:
            raise KeyMisuse(f"{self.subject.key} was called before with another payload")
        if is_unfinished:
            raise FenceMisuse(
                f"the effect of {self.subject.key} ended the transaction in an earlier attempt: {_FIX}. Its record "
                "stands, but nobody knows how much of the effect does"
            )
        return None if result is None else self.decode(result)

    def _ended(self) -> FenceMisuse:
        # If this were retried, the next attempt would have no result to return, or would repeat the effect.
        return FenceMisuse(f"the effect of {self.subject.name} ended the transaction: {_FIX}")

    def _encoded(self, result: Any) -> str:
        try:
            kept: Any = self.encode(result)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"the result of {self.subject.name}, {type(result).__qualname__}, cannot be kept for a repeat: "
                "return what JSON can hold, or give encode= and decode="
            ) from error
        if not isinstance(kept, str):
            raise TypeError(f"encode= must return a str, not {type(kept).__qualname__}")
        return kept


def _new_claim() -> str:
    return uuid4().hex


# The claims that each attempt has made or met, by the id of its `activity.info()`, which lives as long as the attempt.
# A step's second effect finds the claim of the first here. Without this, the second effect would be taken for a repeat
# and skipped without a word. A record in another database or schema has another claim. A transaction that is rolled
# back and tried again finds no record. If the reply of a commit was lost, it does find one, and the next attempt
# settles that.
_attempts: dict[int, tuple[weakref.ref[activity.Info], set[str]]] = {}


def _claims_of_attempt() -> set[str]:
    if not activity.in_activity():
        return set()  # with key= only
    info = activity.info()
    number = id(info)
    if number not in _attempts:
        _attempts[number] = (weakref.ref(info, lambda _: _attempts.pop(number, None)), set())
    return _attempts[number][1]
