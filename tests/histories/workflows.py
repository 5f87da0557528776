"""The workflows of the golden histories. Frozen, as they are: add to them, and change none."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Compensation, Saga, SagaState, presets

TEN = timedelta(seconds=10)


def scope() -> Saga:
    return Saga(activity_options=presets.standard(), compensation_options=presets.compensation())


@workflow.defn
class Happy:
    """One step after another, two in parallel, and one more."""

    @workflow.run
    async def run(self) -> str:
        async with scope() as saga:
            await saga.execute_activity("work", "a", compensation="take_back", step="a")
            await asyncio.gather(
                *[
                    saga.execute_activity("work", item, compensation="take_back", step="item", key=item)
                    for item in ("b", "c")
                ]
            )
            await saga.execute_activity("work", "d", compensation="take_back", step="d")
            return saga.idempotency_key("receipt", 1)


@workflow.defn
class Failed:
    """A step that is declined, after two steps, a compensation by hand and a callback."""

    @workflow.run
    async def run(self) -> None:
        async with scope() as saga:
            await saga.execute_activity("work", "a", compensation="take_back", step="a")
            await saga.execute_activity("work", "a", compensation="take_back", step="a")
            saga.add_compensation("take_back", "by hand", start_to_close_timeout=TEN)
            saga.add_callback(self.look, "around")
            await saga.execute_activity("decline", "b", compensation="take_back", step="b")

    async def look(self, where: str) -> None:
        await workflow.execute_activity("work", where, start_to_close_timeout=TEN)


@workflow.defn
class Incomplete:
    """A compensation that fails for good."""

    @workflow.run
    async def run(self) -> None:
        async with scope() as saga:
            await saga.execute_activity("work", "a", compensation="take_back", step="a")
            await saga.execute_activity("work", "b", compensation="fail", step="b")
            raise ApplicationError("it went wrong", type="Boom")


@workflow.defn
class CancelledInSleep:
    """Cancelled by a client."""

    @workflow.run
    async def run(self) -> None:
        async with scope() as saga:
            await saga.execute_activity("work", "a", compensation="take_back", step="a")
            await asyncio.sleep(3600)


@workflow.defn
class ParallelFailed:
    """A step that fails while another one is in flight, and is drained."""

    @workflow.run
    async def run(self) -> None:
        async with scope() as saga:
            await asyncio.gather(
                saga.execute_activity("hang", "a", compensation="take_back", step="a"),
                saga.execute_activity("fail", "b", compensation="take_back", step="b"),
            )


@workflow.defn
class Concurrent:
    """Two steps that overlap and one after them, undone as they overlapped."""

    @workflow.run
    async def run(self) -> None:
        async with Saga("together", activity_options=presets.standard(), order="concurrent") as saga:
            await asyncio.gather(
                saga.execute_activity("work", "a", compensation="take_back", step="a"),
                saga.execute_activity("work", "b", compensation="take_back", step="b"),
            )
            await saga.execute_activity("work", "c", compensation="take_back", step="c")
            raise ApplicationError("it went wrong", type="Boom")


@workflow.defn
class Savepoints:
    """A savepoint that unwinds, one that ends well, and a failure of the whole."""

    @workflow.run
    async def run(self) -> None:
        async with scope() as saga:
            await saga.execute_activity("work", "a", compensation="take_back", step="a")
            for target in ("fail", "work"):
                try:
                    async with saga.savepoint() as attempt:
                        await attempt.execute_activity("work", target, compensation="take_back", step="pickup")
                        await attempt.execute_activity(target, target, compensation="take_back", step="label")
                except ActivityError:
                    continue
            raise ApplicationError("it went wrong", type="Boom")


@workflow.defn
class Pivot:
    """A failure that is swallowed, then the pivot, then a step during which a cancel comes."""

    @workflow.run
    async def run(self) -> None:
        async with scope() as saga:
            try:
                await saga.execute_activity("fail", "a", compensation="take_back", step="card-1")
            except ActivityError:
                await saga.execute_activity("work", "b", compensation="take_back", step="card-2")
            saga.pivot()
            await saga.execute_activity("pause", "c", compensation="take_back", step="c")
            await saga.execute_activity("work", "d", **presets.forward_only())


@dataclass(frozen=True)
class Hop:
    left: int
    state: SagaState | None = None


@workflow.defn
class ContinuedAsNew:
    """A stack that is carried through two runs and undone in the third."""

    @workflow.run
    async def run(self, hop: Hop) -> None:
        async with Saga(
            "journey", activity_options=presets.standard(), deadline=timedelta(hours=1), state=hop.state
        ) as saga:
            await saga.execute_activity("work", hop.left, compensation="take_back", step="hop")
            if hop.left:
                workflow.continue_as_new(Hop(hop.left - 1, saga.detach()))
            raise ApplicationError("it went wrong", type="Boom")


@workflow.defn
class Deadline:
    """A deadline that passes in a wait."""

    @workflow.run
    async def run(self) -> None:
        async with Saga(activity_options=presets.standard(), deadline=timedelta(seconds=1)) as saga:
            await saga.execute_activity("work", "a", compensation="take_back", step="a")
            await workflow.wait_condition(lambda: False)


@workflow.defn
class Detaches:
    """A child that hands its stack over."""

    @workflow.run
    async def run(self, name: str) -> SagaState:
        async with scope() as saga:
            await saga.execute_activity("work", name, compensation="take_back", step=name)
            return saga.detach()


@workflow.defn
class TakesBack:
    """A compensation that is a child."""

    @workflow.run
    async def run(self, name: str) -> None:
        await workflow.execute_activity("take_back", name, start_to_close_timeout=TEN)


@workflow.defn
class Children:
    """Children as steps, one undone by a child and one by what it has detached."""

    @workflow.run
    async def run(self) -> None:
        async with scope() as saga:
            await saga.execute_child_workflow(
                Detaches.run, "a", compensation=Compensation.child_workflow(TakesBack.run, "a"), step="first"
            )
            await saga.execute_child_workflow(
                Detaches.run, "b", compensation_from=lambda outcome: outcome.result, step="second"
            )
            raise ApplicationError("it went wrong", type="Boom")


@workflow.defn
class Rejected:
    """A saga that is unwound on demand, and another one after it."""

    @workflow.run
    async def run(self) -> str:
        async with scope() as saga:
            await saga.execute_activity("work", "a", compensation="take_back", step="a")
            await saga.compensate()
        async with scope() as saga:
            await saga.execute_activity("work", "a", compensation="take_back", step="a")
        return "rejected"


GOLDEN: list[type] = [
    CancelledInSleep,
    Children,
    Concurrent,
    ContinuedAsNew,
    Deadline,
    Failed,
    Happy,
    Incomplete,
    ParallelFailed,
    Pivot,
    Rejected,
    Savepoints,
]
WORKFLOWS: list[type] = [*GOLDEN, Detaches, TakesBack]
