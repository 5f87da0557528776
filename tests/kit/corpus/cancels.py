"""Cancels, deadlines and waits."""

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import ActivityError

from temporal_saga import Saga, SagaDeadlineExceeded, presets
from temporal_saga.testing import SimulatedHandle, Simulation
from tests.kit.corpus.case import Buggy, Correct
from tests.kit.corpus.ledger import Ledger

STANDARD = presets.standard()


class Rental:
    """A car is put aside until someone comes for it, which they do after a minute."""

    def __init__(self, *, comes: bool = True) -> None:
        self.books = Ledger()
        self.comes = comes
        self.told = 0
        self.activities = [self.put_aside, self.put_back, self.hand_over, self.look_up]

    @activity.defn
    async def put_aside(self, car: str) -> None:
        self.books.enter("aside", 1)

    @activity.defn
    async def put_back(self, car: str) -> None:
        self.books.reverse()

    @activity.defn
    async def hand_over(self, car: str) -> None:
        self.books.enter("handed over", 1)

    @activity.defn
    async def look_up(self, car: str) -> str:
        return car.upper()

    async def client(self, handle: SimulatedHandle[Any]) -> None:
        if self.comes:
            await asyncio.sleep(60)
            await handle.signal("come")


def handed_over_or_put_back(rental: Rental, simulation: Simulation[Any]) -> None:
    past_the_pivot = any(call.label == "hand_over" for call in simulation.calls)
    assert rental.books["aside"] == past_the_pivot
    assert rental.books["handed over"] or simulation.status != "completed", "completed without a handover"


class _Waiting:
    here = False

    @workflow.signal
    def come(self) -> None:
        self.here = True


@workflow.defn
class Rent(_Waiting):
    @workflow.run
    async def run(self, car: str) -> None:
        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Rental.put_aside, car, compensation=Rental.put_back)
            await workflow.wait_condition(lambda: self.here)
            saga.pivot()
            await saga.execute_activity_method(Rental.hand_over, car, **presets.forward_only())


@workflow.defn
class RentWithinADay(_Waiting):
    @workflow.run
    async def run(self, car: str) -> str:
        try:
            async with Saga(activity_options=STANDARD, deadline=timedelta(days=1)) as saga:
                await saga.execute_activity_method(Rental.put_aside, car, compensation=Rental.put_back)
                await workflow.wait_condition(lambda: self.here)
                saga.pivot()
                await saga.execute_activity_method(Rental.hand_over, car, **presets.forward_only())
        except SagaDeadlineExceeded:
            return "nobody came"
        return "handed over"


def _nobody_came(rental: Rental, simulation: Simulation[Any]) -> None:
    assert (rental.books["aside"], rental.books["handed over"]) == (0, 0)
    assert simulation.status != "completed" or simulation.result() == "nobody came"


@workflow.defn
class RentWithACallback(_Waiting):
    """Its query says how things stand, also once the car is back."""

    def __init__(self) -> None:
        self.status = "new"

    @workflow.run
    async def run(self, car: str) -> None:
        async def look_up_again() -> None:
            self.status = await workflow.execute_activity_method(Rental.look_up, car, **STANDARD)

        async with Saga(activity_options=STANDARD) as saga:
            saga.add_callback(look_up_again)
            saga.add_callback(setattr, self, "status", "free")
            await saga.execute_activity_method(Rental.put_aside, car, compensation=Rental.put_back)
            await workflow.wait_condition(lambda: self.here)
            saga.pivot()
            await saga.execute_activity_method(Rental.hand_over, car, **presets.forward_only())

    @workflow.query
    def how(self) -> str:
        return self.status


# What follows has a bug each.


@workflow.defn
class SwallowsTheCancel(_Waiting):
    @workflow.run
    async def run(self, car: str) -> str:
        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Rental.put_aside, car, compensation=Rental.put_back)
            try:
                await workflow.wait_condition(lambda: self.here, timeout=timedelta(hours=1))
            except (asyncio.TimeoutError, asyncio.CancelledError):
                return "nobody came"
            saga.pivot()
            await saga.execute_activity_method(Rental.hand_over, car, **presets.forward_only())
        return "handed over"


def _put_back_if_nobody_came(rental: Rental, simulation: Simulation[Any]) -> None:
    past_the_pivot = any(call.label == "hand_over" for call in simulation.calls)
    assert rental.books["aside"] == past_the_pivot


@workflow.defn
class ReturnsAfterTheTimeout(_Waiting):
    """Nobody came within an hour: returns, and leaves the car aside."""

    @workflow.run
    async def run(self, car: str) -> str:
        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Rental.put_aside, car, compensation=Rental.put_back)
            try:
                await workflow.wait_condition(lambda: self.here, timeout=timedelta(hours=1))
            except asyncio.TimeoutError:
                return "nobody came"
            saga.pivot()
            await saga.execute_activity_method(Rental.hand_over, car, **presets.forward_only())
        return "handed over"


@workflow.defn
class CallsAStepInACallback(_Waiting):
    @workflow.run
    async def run(self, car: str) -> None:
        async with Saga(activity_options=STANDARD) as saga:

            async def look_up_again() -> None:
                await saga.execute_activity_method(Rental.look_up, car)

            saga.add_callback(look_up_again)
            await saga.execute_activity_method(Rental.put_aside, car, compensation=Rental.put_back)
            await workflow.wait_condition(lambda: self.here)
            saga.pivot()
            await saga.execute_activity_method(Rental.hand_over, car, **presets.forward_only())


@workflow.defn
class HandsOverInFinally(_Waiting):
    """The `finally` is to free the car either way. It hands the car over when the run is cancelled, too."""

    @workflow.run
    async def run(self, car: str) -> None:
        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Rental.put_aside, car, compensation=Rental.put_back)
            try:
                await workflow.wait_condition(lambda: self.here)
            finally:
                await saga.execute_activity_method(Rental.hand_over, car, **presets.forward_only())


def _not_both(rental: Rental, simulation: Simulation[Any]) -> None:
    assert rental.books["aside"] == rental.books["handed over"], rental.books.totals


@workflow.defn
class UndoesByHandWhenCancelled(_Waiting):
    """Puts the car back by hand when the body fails, as before there was a saga; a cancel is not an Exception."""

    @workflow.run
    async def run(self, car: str) -> None:
        await workflow.execute_activity("put_aside_plainly", car, **STANDARD)
        try:
            await workflow.wait_condition(lambda: self.here)
        except Exception:
            await workflow.execute_activity("put_back_plainly", car, **STANDARD)
            raise
        await workflow.execute_activity("hand_over_plainly", car, **STANDARD)


class PlainRental(Rental):
    def __init__(self) -> None:
        super().__init__()
        self.activities += [self.put_aside_plainly, self.put_back_plainly, self.hand_over_plainly]

    @activity.defn
    async def put_aside_plainly(self, car: str) -> None:
        self.books.enter("aside", 1, car)

    @activity.defn
    async def put_back_plainly(self, car: str) -> None:
        self.books.reverse(car)

    @activity.defn
    async def hand_over_plainly(self, car: str) -> None:
        self.books.enter("handed over", 1, f"{car}/out")


def _aside_only_if_handed_over(rental: Rental, simulation: Simulation[Any]) -> None:
    if simulation.status == "cancelled" and not rental.books["handed over"]:
        assert rental.books["aside"] == 0, "cancelled, and the car is still aside"


@workflow.defn
class GivesUpOnASlowStep(_Waiting):
    """Goes on without a step that takes too long, as if that one had not happened, in a saga of its own."""

    @workflow.run
    async def run(self, car: str) -> None:
        try:
            async with Saga("aside", activity_options=STANDARD) as aside:
                await aside.execute_activity_method(Rental.put_aside, car, compensation=Rental.put_back)
        except ActivityError:
            workflow.logger.warning("no car is aside")
        async with Saga("handover", activity_options=STANDARD) as saga:
            await workflow.wait_condition(lambda: self.here)
            saga.pivot()
            await saga.execute_activity_method(Rental.hand_over, car, **presets.forward_only())


CORRECT = [
    Correct(
        name="rent",
        run=Rent.run,
        args=("vw",),
        setup=Rental,
        check=handed_over_or_put_back,
        without_compensation=("hand_over",),
    ),
    Correct(
        name="rent-deadline",
        run=RentWithinADay.run,
        args=("vw",),
        setup=lambda: Rental(comes=False),
        check=_nobody_came,
    ),
    Correct(
        name="rent-callback",
        run=RentWithACallback.run,
        args=("vw",),
        setup=Rental,
        check=handed_over_or_put_back,
        without_compensation=("hand_over",),
    ),
]


def _buggy(name: str, culprit: tuple[str, ...], bug: str, expected: str, **changes: Any) -> Buggy:
    base: dict[str, Any] = {"args": ("vw",), "setup": Rental, "check": handed_over_or_put_back}
    return Buggy(name=name, culprit=culprit, bug=bug, expected=expected, **(base | changes))


BUGGY = [
    _buggy(
        "cancel-swallowed",
        ("cancel",),
        "The body catches CancelledError around a wait and returns: the saga ends well, and undoes nothing.",
        "the check objects after a cancel in the wait",
        run=SwallowsTheCancel.run,
        check=_put_back_if_nobody_came,
    ),
    _buggy(
        "returned-after-a-timeout",
        ("aside",),
        "The body returns after a timeout, which ends the saga well: the car stays aside.",
        "the check objects without any fault",
        run=ReturnsAfterTheTimeout.run,
        setup=lambda: Rental(comes=False),
        check=_put_back_if_nobody_came,
    ),
    _buggy(
        "step-in-a-callback",
        ("look_up",),
        "A callback calls a step of the saga that unwinds.",
        "the callback calls the step look_up of a saga that unwinds",
        run=CallsAStepInACallback.run,
    ),
    _buggy(
        "step-in-finally",
        ("hand_over", "cancel"),
        "A `finally` hands the car over, also when the run is cancelled; then the car is put back.",
        "the check objects after a cancel in the wait",
        run=HandsOverInFinally.run,
        check=_not_both,
    ),
    _buggy(
        "cancel-is-not-an-exception",
        ("cancel",),
        "Compensation by hand in an `except Exception`, which a cancel does not meet.",
        "the check objects after a cancel in the wait",
        run=UndoesByHandWhenCancelled.run,
        setup=PlainRental,
        check=_aside_only_if_handed_over,
    ),
    _buggy(
        "two-sagas",
        ("put_aside", "cancel"),
        "The first saga ends well before the second begins: what the first did is final.",
        "the check objects after a cancel in the wait, or once put_aside has failed",
        run=GivesUpOnASlowStep.run,
    ),
]
