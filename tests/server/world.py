"""The world that the test workflows act on: effects that stand until they are undone.

An activity does what its :class:`Effect` tells it, and notes it in the :class:`Book` of its
workflow id. It lives in the worker's process, which for most tests is the test's.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from temporalio import activity
from temporalio.exceptions import ApplicationError

from temporal_saga import Declined, current_step


@dataclass(frozen=True)
class Effect:
    """One effect, and how the activities that make and undo it behave.

    Attributes:
        name: The step's name.
        do: How its activity behaves; see `_behave`.
        undo: How its compensation behaves.
        seconds: The start-to-close timeout of the step.
        attempts: How many attempts the step has.
    """

    name: str
    do: str = "ok"
    undo: str = "ok"
    seconds: float = 20
    attempts: int = 3


@dataclass
class Book:
    """What the activities of one workflow id did.

    Attributes:
        began: Each attempt, as `name:phase`, in the order in which they began.
        standing: The effects that were made and not undone, by forward key.
        keys: The keys that attempts carried, by `name:phase`.
        opened: The gates that the test has opened, as `name:phase`.
        running: How many compensations run; `most` is the highest it has been.
    """

    began: list[str] = field(default_factory=list)
    standing: dict[str, str] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    opened: set[str] = field(default_factory=set)
    running: int = 0
    most: int = 0

    @property
    def stands(self) -> list[str]:
        """The names of what stands, oldest first."""
        return list(self.standing.values())


BOOKS: defaultdict[str, Book] = defaultdict(Book)


@dataclass(frozen=True)
class _Entry:
    book: Book
    gate: str
    forward_key: str

    def applied(self) -> None:
        self.book.standing[self.forward_key] = self.gate.rpartition(":")[0]

    def undone(self) -> None:
        self.book.standing.pop(self.forward_key, None)


def _enter(effect_name: str, phase: str) -> _Entry:
    info = activity.info()
    book = BOOKS[info.workflow_id or ""]
    if info.activity_id.count(":") < 2:  # by hand: it has no step of a saga
        name, key, forward_key = effect_name, "", effect_name
    else:
        step = current_step()
        assert step.phase == phase
        name, key, forward_key = step.name, step.key, step.forward_key or step.key
    gate = f"{name}:{phase}"
    book.began.append(gate)
    book.keys[gate].append(key)
    return _Entry(book, gate, forward_key)


async def _behave(how: str, entry: _Entry, take_effect: Callable[[], None]) -> None:
    """Behave, as a test's word for it says; take effect at most once."""
    attempt = activity.info().attempt
    if how == "ok":
        take_effect()
    elif how == "slow":
        await asyncio.sleep(0.05)
        take_effect()
    elif how == "boom":  # fails before its effect
        raise ApplicationError("it went wrong", type="Boom", non_retryable=True)
    elif how == "lost":  # takes effect, and its answer is lost
        take_effect()
        raise ApplicationError("no answer", type="Lost", non_retryable=True)
    elif how == "flaky":  # fails once
        if attempt == 1:
            raise ConnectionError("no connection")
        take_effect()
    elif how == "declined":
        raise Declined("no")
    elif how == "declined late":  # its first attempt took effect
        if attempt == 1:
            take_effect()
            raise ConnectionError("no answer")
        raise Declined("no")
    elif how == "declined again":  # takes effect once, and is refused under the same key after a reset
        if entry.book.keys[entry.gate].count(entry.forward_key) > 1:
            raise Declined("no")
        take_effect()
    elif how == "impostor":  # a user's own exception of that name says nothing of the effect
        take_effect()
        raise ApplicationError("no", type="Declined", non_retryable=True)
    elif how == "gate":  # waits for the test, and obeys a cancel
        await _wait(entry, heartbeat=True)
        take_effect()
    elif how == "stubborn":  # waits for the test; a cancel reaches it, and it goes on
        try:
            await _wait(entry, heartbeat=True)
        except asyncio.CancelledError:
            await _wait(entry, heartbeat=False)
        take_effect()
    elif how == "deaf":  # waits for the test and never heartbeats: no cancel reaches it
        await _wait(entry, heartbeat=False)
        take_effect()
    elif how == "hangs first":  # its first attempt hangs until its worker dies
        while attempt == 1:
            activity.heartbeat()
            await asyncio.sleep(0.02)
        take_effect()
    else:
        raise ValueError(how)


async def _wait(entry: _Entry, *, heartbeat: bool) -> None:
    while entry.gate not in entry.book.opened:
        if heartbeat:
            activity.heartbeat()
        await asyncio.sleep(0.02)


@activity.defn
async def do(effect: Effect) -> str:
    entry = _enter(effect.name, "do")
    await _behave(effect.do, entry, entry.applied)
    return f"{effect.name} done"


@activity.defn
async def undo(effect: Effect) -> None:
    entry = _enter(effect.name, "undo")
    entry.book.running += 1
    entry.book.most = max(entry.book.most, entry.book.running)
    try:
        await _behave(effect.undo, entry, entry.undone)
    finally:
        entry.book.running -= 1


@activity.defn
async def push(name: str) -> None:
    """A compensation pushed by hand."""
    _enter(name, "push")


# --- the same, as each kind of activity that Temporal knows


@activity.defn
def stamp(name: str) -> str:
    """A function that runs in a thread."""
    time.sleep(0.01)
    _enter(name, "do").applied()
    return name


@activity.defn
def unstamp(name: str) -> None:
    _enter(name, "undo").undone()


class Desk:
    """Methods of an object, of several arguments."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    @activity.defn
    async def reserve(self, item: str, amount: int) -> str:
        _enter(item, "do").applied()
        return f"{self.owner}: {amount} {item}"

    @activity.defn
    async def release(self, item: str, amount: int) -> None:
        _enter(item, "undo").undone()


@activity.defn
class Seal:
    """An object that is called."""

    async def __call__(self, name: str) -> str:
        _enter(name, "do").applied()
        return name


@activity.defn
class Unseal:
    async def __call__(self, name: str) -> None:
        _enter(name, "undo").undone()


DESK = Desk("desk")
ACTIVITIES: list[Callable[..., object]] = [do, undo, push, stamp, unstamp, DESK.reserve, DESK.release, Seal(), Unseal()]
