"""Sagas of which something parks, and the world that refuses until a test lets it: for `test_parking.py`."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from temporal_saga import Compensation, Parked, Saga, presets

ATTRIBUTE = "SagaState"
TEN = timedelta(seconds=10)

REFUSED: defaultdict[str, set[str]] = defaultdict(set)
"""What is refused for good, by the id of the workflow whose saga it is."""

DONE: defaultdict[str, list[str]] = defaultdict(list)
"""What was done and undone, by the same id."""


@dataclass(frozen=True)
class Case:
    """What a saga does.

    Attributes:
        id: The id of its workflow.
        parks: What may be refused: the step `charge`, its undo `refund`, or nothing.
        kind: Whether these two are activities or child workflows.
        secret: What must not be seen.
    """

    id: str
    parks: str
    kind: str = "activity"
    secret: str = ""


def act(name: str, case: Case) -> str:
    if name in REFUSED[case.id]:
        raise ApplicationError(f"refused {case.secret}", case.secret, type="Refused", non_retryable=True)
    DONE[case.id].append(name)
    return case.secret


@activity.defn
async def reserve(case: Case) -> str:
    return act("reserve", case)


@activity.defn
async def release(case: Case) -> None:
    act("release", case)


@activity.defn
async def charge(case: Case) -> str:
    return act("charge", case)


@activity.defn
async def refund(case: Case) -> None:
    act("refund", case)


@activity.defn
async def tell(parked: Parked) -> None:
    DONE[activity.info().workflow_id or ""].append(f"told of {parked.what} {parked.step}")


@workflow.defn
class Charge:
    @workflow.run
    async def run(self, case: Case) -> str:
        return await workflow.execute_activity(charge, case, start_to_close_timeout=TEN)


@workflow.defn
class Refund:
    @workflow.run
    async def run(self, case: Case) -> None:
        await workflow.execute_activity(refund, case, start_to_close_timeout=TEN)


@workflow.defn
class Parks:
    @workflow.run
    async def run(self, case: Case) -> str:
        options: dict[str, Any] = {"on_step_failure": "park", "on_compensation_failure": "park"}
        async with Saga(activity_options=presets.standard(), **options) as saga:
            await saga.execute_activity(reserve, case, compensation=release)
            if case.kind == "child":
                undo = Compensation.child_workflow(Refund.run, case)
                result = await saga.execute_child_workflow(Charge.run, case, step="charge", compensation=undo)
            else:
                result = await saga.execute_activity(charge, case, compensation=refund)
            if case.parks == "undo":
                raise ApplicationError(f"no {case.secret}", type="Boom")
            return result


@workflow.defn
class ParksByHand:
    """The commands of `Parks` that ends well, without a saga."""

    @workflow.run
    async def run(self, case: Case) -> str:
        options: dict[str, Any] = {"start_to_close_timeout": TEN, "retry_policy": RetryPolicy(maximum_attempts=1)}
        await workflow.execute_activity(reserve, case, **options)
        return await workflow.execute_activity(charge, case, **options)


@workflow.defn
class Reminds:
    """A parked undo that somebody is reminded of."""

    @workflow.run
    async def run(self, case: Case) -> None:
        reminder = (tell, timedelta(milliseconds=300))
        async with Saga(
            activity_options=presets.standard(), on_compensation_failure="park", park_reminder=reminder
        ) as saga:
            await saga.execute_activity(charge, case, compensation=refund)
            raise ApplicationError("no", type="Boom")


OVERTAKEN = asyncio.Event()
"""Set when the step of each `Overtaken` may end."""

LOOKED: set[str] = set()
"""The ids of the workflows that are looked at."""


@activity.defn
async def ends_late(case: Case) -> str:
    await OVERTAKEN.wait()
    return act("charge", case)


@workflow.defn
class Overtaken:
    """A step that ends late, a query that lasts, and the wait for a signal."""

    def __init__(self) -> None:
        self._is_told = False

    @workflow.run
    async def run(self, case: Case) -> None:
        async with Saga(activity_options=presets.standard(), on_step_failure="park") as saga:
            await saga.execute_activity(ends_late, case, compensation=refund)
            await saga.execute_activity(reserve, case, compensation=release)
            await workflow.wait_condition(lambda: self._is_told)

    @workflow.query
    def look(self) -> None:
        LOOKED.add(workflow.info().workflow_id)
        time.sleep(0.3)

    @workflow.signal
    async def also(self, case: Case) -> None:
        await workflow.execute_activity(release, case, start_to_close_timeout=TEN)
        self._is_told = True


@workflow.defn
class Continues:
    """Continues as new, when told to, over a parked step that nothing undoes. The next run only waits."""

    def __init__(self) -> None:
        self._is_told = False

    @workflow.signal
    def tell(self) -> None:
        self._is_told = True

    @workflow.run
    async def run(self, case: Case, is_next: bool = False) -> None:
        if is_next:
            await workflow.wait_condition(lambda: self._is_told)
            return
        async with Saga(activity_options=presets.standard(), on_step_failure="park") as saga:
            step = asyncio.create_task(saga.execute_activity(charge, case))
            await workflow.wait_condition(lambda: self._is_told)
            assert not step.done()
            workflow.continue_as_new(args=[case, True])


WORKFLOWS: list[type] = [Parks, ParksByHand, Reminds, Overtaken, Continues, Charge, Refund]
ACTIVITIES: list[Callable[..., object]] = [reserve, release, charge, refund, tell, ends_late]
