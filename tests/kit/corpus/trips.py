"""A trip: alternatives in savepoints, and bookings in parallel."""

import asyncio
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Saga, business_key, current_step, presets
from temporal_saga.testing import Simulation
from tests.kit.corpus.case import Buggy, Correct
from tests.kit.corpus.ledger import Ledger

STANDARD = presets.standard()


class Agency:
    """Books by name; `full` has what is sold out."""

    def __init__(self, *full: str) -> None:
        self.full = set(full)
        self.books = Ledger()
        self.activities: list[Callable[..., Any]] = [self.book, self.cancel, self.transfer, self.cancel_transfer]
        self.activities += [self.book_once]

    @activity.defn
    async def book(self, name: str) -> None:
        if name in self.full:
            raise ApplicationError(f"{name} is sold out", non_retryable=True)
        self.books.enter(name, 1)

    @activity.defn
    async def cancel(self, name: str) -> None:
        self.books.reverse()

    @activity.defn
    async def transfer(self, name: str) -> None:
        if f"transfer to {name}" in self.full:
            raise ApplicationError("no taxi", non_retryable=True)
        self.books.enter(f"transfer to {name}", 1)

    @activity.defn
    async def cancel_transfer(self, name: str) -> None:
        self.books.reverse()

    @activity.defn(name="book_once")
    async def book_once(self, name: str) -> None:
        """Answers a key that it has seen with the first reply, also that of a booking that was cancelled."""
        key = business_key("booking", "trip-1")
        if key not in self.books.applied and key not in self.books.reversed:
            self.books.applied[key] = (name, 1)
            self.books.add(name, 1)


def one_or_none(agency: Agency, simulation: Simulation[Any]) -> None:
    booked = sum(count for name, count in agency.books.totals.items() if not name.startswith("transfer"))
    assert booked == (simulation.status == "completed"), agency.books.totals


def all_or_none(agency: Agency, simulation: Simulation[Any]) -> None:
    assert sum(agency.books.totals.values()) == (2 if simulation.status == "completed" else 0), agency.books.totals


@workflow.defn
class Alternatives:
    @workflow.run
    async def run(self, hotels: list[str]) -> str:
        async with Saga("trip", activity_options=STANDARD) as saga:
            for hotel in hotels:
                try:
                    async with saga.savepoint() as attempt:
                        await attempt.execute_activity_method(Agency.book, hotel, compensation=Agency.cancel)
                        await attempt.execute_activity_method(
                            Agency.transfer, hotel, compensation=Agency.cancel_transfer
                        )
                        return hotel
                except ActivityError:
                    continue
            raise ApplicationError("nothing is left", non_retryable=True)


@workflow.defn
class Fallback:
    """Gives up on the first hotel after ten seconds; what came of it is undone at the end."""

    @workflow.run
    async def run(self, hotels: list[str]) -> str:
        async with Saga("trip", activity_options=STANDARD) as saga:
            for hotel in hotels:
                try:
                    step = saga.execute_activity_method(Agency.book, hotel, key=hotel, compensation=Agency.cancel)
                    await asyncio.wait_for(step, 10)
                    return hotel
                except (asyncio.TimeoutError, ActivityError):
                    continue
            raise ApplicationError("nothing is left", non_retryable=True)


@workflow.defn
class Together:
    @workflow.run
    async def run(self, names: list[str]) -> None:
        async with Saga("trip", activity_options=STANDARD) as saga:
            await asyncio.gather(
                *[saga.execute_activity_method(Agency.book, name, compensation=Agency.cancel) for name in names]
            )


@workflow.defn
class TogetherAndBack:
    """Undoes at the same time what was booked at the same time."""

    @workflow.run
    async def run(self, names: list[str]) -> None:
        async with Saga("trip", activity_options=STANDARD, order="concurrent") as saga:

            async def book(name: str) -> None:
                await saga.execute_activity_method(Agency.book, name, key=name, compensation=Agency.cancel)

            await asyncio.gather(*[book(name) for name in names])


if sys.version_info >= (3, 11):

    @workflow.defn
    class Grouped:
        @workflow.run
        async def run(self, names: list[str]) -> None:
            async with Saga("trip", activity_options=STANDARD) as saga, asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(
                        saga.execute_activity_method(Agency.book, name, key=name, compensation=Agency.cancel)
                    )


# What follows has a bug each.


@workflow.defn
class BooksInTheWrongScope:
    @workflow.run
    async def run(self, hotels: list[str]) -> str:
        async with Saga("trip", activity_options=STANDARD) as saga:
            for hotel in hotels:
                try:
                    async with saga.savepoint() as attempt:
                        await saga.execute_activity_method(Agency.book, hotel, compensation=Agency.cancel)
                        await attempt.execute_activity_method(
                            Agency.transfer, hotel, compensation=Agency.cancel_transfer
                        )
                        return hotel
                except ActivityError:
                    continue
            raise ApplicationError("nothing is left", non_retryable=True)


@workflow.defn
class GathersErrors:
    @workflow.run
    async def run(self, names: list[str]) -> None:
        async with Saga("trip", activity_options=STANDARD) as saga:
            steps = [saga.execute_activity_method(Agency.book, name, compensation=Agency.cancel) for name in names]
            await asyncio.gather(*steps, return_exceptions=True)


@workflow.defn
class NamesUsesByTime:
    @workflow.run
    async def run(self, names: list[str]) -> None:
        async with Saga("trip", activity_options=STANDARD) as saga:
            for name in names:
                key = f"{name}-{time.time_ns()}"
                await saga.execute_activity_method(Agency.book, name, key=key, compensation=Agency.cancel)


@workflow.defn
class CountsItsAttempts:
    """Tries each hotel twice, and names the attempts by a counter that starts again with each hotel."""

    @workflow.run
    async def run(self, hotels: list[str]) -> str:
        async with Saga("trip", activity_options=STANDARD) as saga:
            for hotel in hotels:
                for attempt in range(1, 3):
                    try:
                        await saga.execute_activity_method(
                            Agency.book, hotel, key=str(attempt), compensation=Agency.cancel
                        )
                        return hotel
                    except ActivityError:
                        continue
            raise ApplicationError("nothing is left", non_retryable=True)


@workflow.defn
class WaitsForUnnamed:
    """Gives each booking a minute, in tasks of its own; uses of one step without a `key=`."""

    @workflow.run
    async def run(self, names: list[str]) -> None:
        async with Saga("trip", activity_options=STANDARD) as saga:

            async def book(name: str) -> None:
                await workflow.sleep(len(name))
                step = saga.execute_activity_method(Agency.book, name, compensation=Agency.cancel)
                await asyncio.wait_for(step, 60)

            await asyncio.gather(*[book(name) for name in names])


@workflow.defn
class OneKeyForAllAttempts:
    """The second hotel is asked for with the key of the first, whose booking was cancelled."""

    @workflow.run
    async def run(self, hotels: list[str]) -> str:
        async with Saga("trip", activity_options=STANDARD) as saga:
            for hotel in hotels:
                try:
                    async with saga.savepoint() as attempt:
                        await attempt.execute_activity_method(Agency.book_once, hotel, compensation="cancel_once")
                        await attempt.execute_activity_method(
                            Agency.transfer, hotel, compensation=Agency.cancel_transfer
                        )
                        return hotel
                except ActivityError:
                    continue
            raise ApplicationError("nothing is left", non_retryable=True)


class RepeatsItsFirstReply(Agency):
    def __init__(self, *full: str) -> None:
        super().__init__(*full)
        self.activities.append(self.cancel_once)

    @activity.defn
    async def cancel_once(self, name: str) -> None:
        self.books.reverse(business_key("booking", "trip-1"))


class Hold:
    """A hold on a seat lasts 45 seconds; then the seat is sold to someone else."""

    def __init__(self) -> None:
        self.held_at: float | None = None
        self.owners: list[str] = []
        self.gone: set[str] = set()
        self.activities: list[Callable[..., Any]] = [self.hold, self.price, self.insure, self.confirm]
        self.activities += [self.give_back]

    @activity.defn
    async def hold(self) -> None:
        if self.held_at is None:
            self.held_at = asyncio.get_running_loop().time()

    @activity.defn
    async def price(self) -> None: ...

    @activity.defn
    async def insure(self) -> None: ...

    @activity.defn
    async def confirm(self) -> None:
        """Does not ask whether the hold still stands."""
        if current_step().key in self.gone:
            raise ApplicationError("given back before it came", non_retryable=True)
        late = self.held_at is not None and asyncio.get_running_loop().time() - self.held_at > 45
        if late and "someone else" not in self.owners:
            self.owners.append("someone else")
        if "us" not in self.owners:
            self.owners.append("us")

    @activity.defn
    async def give_back(self) -> None:
        self.gone.add(current_step().forward_key or "")
        if "us" in self.owners:
            self.owners.remove("us")


@workflow.defn
class HoldsASeat:
    @workflow.run
    async def run(self) -> None:
        brief = presets.standard(schedule_to_close_timeout=timedelta(seconds=30))
        async with Saga("seat", activity_options=brief) as saga:
            await saga.execute_activity_method(Hold.hold)
            await saga.execute_activity_method(Hold.price)
            await saga.execute_activity_method(Hold.insure)
            await saga.execute_activity_method(Hold.confirm, compensation=Hold.give_back)


def _one_owner(hold: Hold, simulation: Simulation[Any]) -> None:
    assert len(hold.owners) <= 1, hold.owners


def _correct(name: str, **changes: Any) -> Correct:
    base: dict[str, Any] = {"args": (["rome", "oslo"],), "setup": Agency, "check": all_or_none}
    return Correct(name=name, **(base | changes))


CORRECT = [
    _correct("trip-alternatives", run=Alternatives.run, setup=lambda: Agency("transfer to rome"), check=one_or_none),
    _correct("trip-fallback", run=Fallback.run, setup=lambda: Agency("rome"), check=one_or_none),
    _correct("trip-together", run=Together.run),
    _correct("trip-together-back", run=TogetherAndBack.run),
]
if sys.version_info >= (3, 11):
    # Without bug_after: a bug in one task of a group cancels the steps of the others, which is in history before the
    # group raises. The fixed code asks for no cancel, and a replay fails: that is the group's doing.
    kinds = ("fails_before", "fails_after", "applies_late", "slow", "worker_lost", "cancel", "cancel_scope", "restart")
    CORRECT.append(_correct("trip-grouped", run=Grouped.run, options={"kinds": kinds}))


def _buggy(name: str, culprit: tuple[str, ...], bug: str, expected: str, **changes: Any) -> Buggy:
    base: dict[str, Any] = {"args": (["rome", "oslo"],), "setup": Agency, "check": all_or_none}
    return Buggy(name=name, culprit=culprit, bug=bug, expected=expected, **(base | changes))


BUGGY = [
    _buggy(
        "step-in-the-wrong-scope",
        ("book", "transfer"),
        "The booking is a step of the saga, not of the savepoint: the savepoint's failure does not undo it.",
        "the check objects once transfer has failed: two hotels",
        run=BooksInTheWrongScope.run,
        check=one_or_none,
    ),
    _buggy(
        "errors-gathered",
        ("book",),
        "`return_exceptions=True`, and nobody looks at them: half a trip is booked.",
        "the check objects once book has failed",
        run=GathersErrors.run,
    ),
    _buggy(
        "key-of-the-clock",
        ("book", "time.time_ns"),
        "`key=` has the time in it: a replay gives another key.",
        "a replay gives other commands for book; or, in the sandbox, time.time_ns is forbidden",
        run=NamesUsesByTime.run,
    ),
    _buggy(
        "key-of-a-counter",
        ("book",),
        "`key=` comes from a counter that starts again: the second hotel takes the first one's key.",
        "book was called twice with the key 1, after it has failed twice",
        run=CountsItsAttempts.run,
        check=one_or_none,
    ),
    _buggy(
        "uses-without-names",
        ("book",),
        "Tasks of the body's own use one step without a `key=`: which use is which depends on who is first.",
        "book needs a key=",
        run=WaitsForUnnamed.run,
    ),
    _buggy(
        "business-key-of-all-attempts",
        ("book_once", "transfer"),
        "All alternatives share one business key: the provider answers the second with the first reply.",
        "the check objects once transfer has failed: completed, and nothing is booked",
        run=OneKeyForAllAttempts.run,
        setup=RepeatsItsFirstReply,
        check=one_or_none,
    ),
    _buggy(
        "hold-outlasted",
        ("slow('price')", "slow('insure')"),
        "Two slow calls outlast the hold, and the confirmation does not ask.",
        "the check objects, after slow('price') and slow('insure')",
        run=HoldsASeat.run,
        args=(),
        setup=Hold,
        check=_one_owner,
    ),
]
