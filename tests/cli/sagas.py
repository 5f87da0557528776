"""Sagas in each state that the command line tells apart. Arguments, results and errors carry `MARKER`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from temporal_saga import Compensation, Declined, Saga, SagaState, presets

MARKER = "planted-secret"
KEY = "0f2b7f0e-3c1d-5a52-9d9e-3a3c5b1c7d10"
TEN = timedelta(seconds=10)
# Three attempts in a second, then none for minutes: a state that stays as it is while it is looked at.
THRICE = RetryPolicy(
    initial_interval=timedelta(milliseconds=1), backoff_coefficient=1000, maximum_interval=timedelta(hours=1)
)
PATIENT = timedelta(hours=1)


@activity.defn
async def reserve(what: str) -> str:
    return f"{MARKER} {what}"


@activity.defn
async def release(what: str) -> None:
    pass


@activity.defn
async def charge(what: str) -> str:
    return f"{MARKER} {what}"


@activity.defn
async def refund(what: str) -> None:
    raise ConnectionError(f"{MARKER} {what}")


@activity.defn
async def refund_in_vain(what: str) -> None:
    raise ApplicationError(f"{MARKER} {what}", MARKER, type="AccountClosed", non_retryable=True)


@activity.defn
async def hang(what: str) -> None:
    await asyncio.sleep(3600)


@activity.defn
async def ship(what: str) -> None:
    raise ApplicationError(f"{MARKER} {what}", MARKER, type="NoCarrier", non_retryable=True)


@activity.defn
async def decline(what: str) -> None:
    raise Declined(f"{MARKER} {what}")


ACTIVITIES = [reserve, release, charge, refund, refund_in_vain, hang, ship, decline]


def saga(**options: Any) -> Saga:
    return Saga("order", activity_options=presets.standard(), **options)


def retried() -> Compensation:
    return Compensation(
        refund, MARKER, retry_policy=THRICE, start_to_close_timeout=TEN, schedule_to_close_timeout=PATIENT
    )


@workflow.defn
class Open:
    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            await order.execute_activity(charge, MARKER, compensation=release)
            await workflow.wait_condition(lambda: False)


@workflow.defn
class Unwinding:
    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            await order.execute_activity(charge, MARKER, compensation=hang)
            await order.execute_activity(decline, MARKER, compensation=release)


@workflow.defn
class Retrying:
    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            await order.execute_activity(charge, MARKER, compensation=retried())
            await order.execute_activity(reserve, MARKER, compensation=release)
            await order.execute_activity(ship, MARKER)


@workflow.defn
class Incomplete:
    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            order.add_callback(self.look)
            await order.execute_activity(reserve, MARKER, compensation=release)
            await order.execute_activity(charge, MARKER, compensation=refund_in_vain)
            await order.execute_activity(ship, MARKER)

    async def look(self) -> None:
        pass


@workflow.defn
class Compensated:
    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            order.add_compensation(release, MARKER, step="by hand")
            await order.execute_activity(decline, MARKER, compensation=release)


@workflow.defn
class Completed:
    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            await order.execute_activity(charge, MARKER, compensation=release)
            await workflow.execute_activity(release, MARKER, start_to_close_timeout=TEN)


@workflow.defn
class Terminated:
    """Terminated from outside, while its undo is tried again."""

    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            await order.execute_activity(charge, MARKER, compensation=retried())
            await order.execute_activity(decline, MARKER)


@workflow.defn
class Bug:
    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            raise TypeError(MARKER)


@dataclass
class Hop:
    left: int
    state: SagaState | None = None


@workflow.defn
class Continued:
    @workflow.run
    async def run(self, hop: Hop) -> None:
        async with saga(state=hop.state) as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            if hop.left:
                workflow.continue_as_new(Hop(hop.left - 1, order.detach()))
            raise ApplicationError(MARKER, type="Late")


@workflow.defn
class Child:
    @workflow.run
    async def run(self, detaches: bool) -> SagaState | None:
        async with saga() as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            return order.detach() if detaches else None


@workflow.defn
class TakesBack:
    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await order.execute_activity(charge, MARKER)


@workflow.defn
class Parent:
    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await order.execute_child_workflow(
                Child.run, False, compensation=Compensation.child_workflow(TakesBack.run), step="own"
            )
            await order.execute_child_workflow(
                Child.run, True, compensation_from=lambda outcome: outcome.result, step="handed"
            )
            raise ApplicationError(MARKER, type="Late")


@workflow.defn
class UndoesItself:
    @workflow.run
    async def run(self) -> SagaState:
        async with saga() as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            await order.execute_activity(decline, MARKER)
            return order.detach()


@workflow.defn
class UndoneWithin:
    """Would take over what its child did; but the child fails, and undoes it itself."""

    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await order.execute_activity(charge, MARKER, compensation=release)
            await order.execute_child_workflow(
                UndoesItself.run, compensation_from=lambda outcome: outcome.result, step="trip"
            )


@workflow.defn
class Repeats:
    """Is reset to before its child."""

    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await workflow.sleep(timedelta(milliseconds=10))
            await order.execute_child_workflow(Child.run, False, step="trip")
            await order.execute_activity(charge, MARKER, compensation=release)


@workflow.defn
class Swallowed:
    """Goes on although an undo has failed for good: nothing is parked in it."""

    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            try:
                async with order.savepoint() as way:
                    await way.execute_activity(charge, MARKER, compensation=refund_in_vain)
                    raise ApplicationError(MARKER)
            except ApplicationError:
                await workflow.wait_condition(lambda: False)


@workflow.defn
class Stubborn:
    """Undoes something as a child, with an activity that is no step of a saga."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(refund, MARKER, retry_policy=THRICE, start_to_close_timeout=TEN)


@workflow.defn
class UndoneByChild:
    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            undo = Compensation.child_workflow(Stubborn.run, id="stubborn")
            await order.execute_activity(charge, MARKER, compensation=undo)
            raise ApplicationError(MARKER, type="Late")


@workflow.defn
class Waits:
    """Is reset after it was undone in part: the test signals nothing, it waits for good."""

    @workflow.run
    async def run(self) -> None:
        async with saga() as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            await workflow.sleep(timedelta(milliseconds=10))
            await order.execute_activity(charge, MARKER, compensation=release)
            await workflow.wait_condition(lambda: False)


@workflow.defn(name="ParkedUndo")
class Parked:
    @workflow.run
    async def run(self) -> None:
        async with saga(on_compensation_failure="park") as order:
            await order.execute_activity(charge, MARKER, compensation=refund_in_vain)
            raise ApplicationError(MARKER, type="Late")


@workflow.defn(sandboxed=False)
class Rejects:
    """Rejects the first decisions, as a saga does; `asked` counts all of them."""

    asked = 0

    @workflow.init
    def __init__(self, message: str) -> None:
        self.message = message

    @workflow.run
    async def run(self, message: str) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.update
    def saga_resolve(self, key: str, action: str, who: str, why: str) -> None: ...

    @saga_resolve.validator
    def check(self, key: str, action: str, who: str, why: str) -> None:
        Rejects.asked += 1
        if Rejects.asked < 3:
            raise ApplicationError(self.message, type="SagaNotResolved")


@workflow.defn
class Refundable:
    @workflow.run
    async def run(self) -> SagaState:
        async with saga() as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            await order.execute_activity(charge, MARKER, compensation=refund_in_vain)
            return order.detach()


@workflow.defn
class ParkedOver:
    """Parks an undo that a child has handed over."""

    @workflow.run
    async def run(self) -> None:
        async with saga(on_compensation_failure="park") as order:
            await order.execute_activity(reserve, MARKER, compensation=release, step="before")
            await order.execute_child_workflow(
                Refundable.run, compensation_from=lambda outcome: outcome.result, step="trip"
            )
            await order.execute_activity(reserve, MARKER, compensation=release, step="after")
            raise ApplicationError(MARKER, type="Late")


@workflow.defn
class ParkedStep:
    @workflow.run
    async def run(self) -> None:
        async with saga(on_step_failure="park") as order:
            await order.execute_activity(reserve, MARKER, compensation=release)
            await order.execute_activity(ship, MARKER, compensation=release)


WORKFLOWS: list[type] = [
    Open,
    Unwinding,
    Retrying,
    Incomplete,
    Compensated,
    Completed,
    Terminated,
    Bug,
    Continued,
    Child,
    TakesBack,
    Parent,
    Stubborn,
    UndoneByChild,
    UndoesItself,
    UndoneWithin,
    Repeats,
    Swallowed,
    Waits,
    Parked,
    Rejects,
    Refundable,
    ParkedOver,
    ParkedStep,
]
