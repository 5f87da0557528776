"""What the fence does in a transaction: claim a record, run the effect, keep its result.

Written once, as coroutines. With a blocking connection they never wait, and `run_blocking` runs them.

A claim leaves a record `applying`, or `undoing`, and the statement that keeps the result makes it `applied`, or
`undone`. Both are in the transaction of the effect, so nobody else ever sees the first two, unless the effect has
committed. That is how a later attempt notices.
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
    """What happens once."""

    name: str
    """For messages: the step's name, or the user's `key=`."""
    key: str
    """For messages, too: a compensation has a key of its own."""
    record: str
    """The record's key."""
    is_step: bool
    """Whether the activity is its only name, so that a second effect there would be taken for a repeat."""


def of_step(step: Step) -> Subject:
    """Return the step that the activity runs, or undoes. What was pushed by hand is an effect of its own."""
    return Subject(step.name, f"{step.name} ({step.key})", step.forward_key or step.key, is_step=True)


def of_key(key: str) -> Subject:
    """Return the effect that the user names.

    Raises:
        TypeError: If the key is not a str, or is empty.
    """
    fix = 'key= must be a str that is not empty, such as business_key("refund", order_id)'
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
        raise TypeError(f"{fix}; got {type(key).__name__}")
    if not key:
        raise TypeError(f"{fix}; got an empty str")
    # A record of its own, also where a user gives a step's key: an undo must not find it.
    return Subject(f"key={key!r}", f"key={key!r}", "key:" + key, is_step=False)


@dataclass(frozen=True)
class Once:
    """One call of the fence.

    Attributes:
        database: The user's.
        subject: What happens once.
        payload: The hash of its payload.
        effect: Runs the user's effect.
        encode: Makes the result a str.
        decode: Makes it a result again.
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
            # Of a cancel nothing is hidden: it proves nothing anyhow, and the caller waits for it.
            if await self._stands(claim, side) and isinstance(error, Exception):
                raise self._ended() from error
            raise
        state = database.transaction()
        if state in ("none", "returned"):
            raise self._ended()
        if state == "aborted":
            # A commit would roll back, and say nothing.
            raise RuntimeError(f"the effect of {name} caught a database error, which aborted the transaction")
        kept = None if result is None else self._encoded(result)
        answer = None if kept is None else self.decode(kept)  # what a repeat will return: let a difference show at once
        if await database.execute(side.keep, kept, key, claim) == 0:
            raise self._ended()
        return answer

    async def _stands(self, claim: str, side: Side) -> bool:
        """Take the claim back after an error, and tell whether it stands all the same: the effect has committed it.

        It is taken back for a caller who catches the error and commits: an effect that failed must leave no record.
        """
        database, key, state = self.database, self.subject.record, self.database.transaction()
        if state == "returned":
            return True  # nobody can look any more
        if state == "aborted":
            return False  # nobody can look yet: if it stands, the next attempt finds it
        with suppress(Exception):  # a lost connection; an aborted transaction of a driver that does not tell
            if state != "none" and any([await database.execute(each, key, claim) for each in side.take_back]):
                return False
            # The transaction of the claim is over. What was rolled back has left nothing, and may be tried again:
            # SQLAlchemy does so by itself if a flush fails, and SQLite if the disk is full.
            row = await database.fetch(database.statements.read, key)
            return row is not None and text(Record(*row).claim) == claim
        return False

    async def _record(self) -> Record:
        row = await self.database.fetch(self.database.statements.read, self.subject.record)
        if row is None:  # purged since the statement before
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
        # The next attempt would have no result to return, or would do it again.
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


# The claims that each attempt has made or met, by the id of its `activity.info()`, which lives as long as the attempt
# does. A step's second effect finds the claim of the first; without this it would be taken for a repeat and left out in
# silence. The record of another database, or schema, has another claim. A transaction that is rolled back and tried
# again finds no record; if a commit's reply was lost it does, and the next attempt settles it.
_attempts: dict[int, tuple[weakref.ref[activity.Info], set[str]]] = {}


def _claims_of_attempt() -> set[str]:
    if not activity.in_activity():
        return set()  # with key= only
    info = activity.info()
    number = id(info)
    if number not in _attempts:
        _attempts[number] = (weakref.ref(info, lambda _: _attempts.pop(number, None)), set())
    return _attempts[number][1]
