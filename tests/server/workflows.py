"""The workflows of the server tests. Most take a `Plan`, so that a test shows what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Compensation, Saga, SagaState, presets

with workflow.unsafe.imports_passed_through():
    from tests.server.world import Desk, Effect, Seal, Unseal, do, push, stamp, undo, unstamp

FAST_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=20))
UNDO: workflow.ActivityConfig = {
    **presets.compensation.config(),
    "retry_policy": FAST_RETRY,
    "heartbeat_timeout": timedelta(seconds=1.5),  # so that a lost worker is noticed
}
TEN = timedelta(seconds=10)


@dataclass(frozen=True)
class Plan:
    """The steps of a workflow, and what it does after them.

    Attributes:
        effects: The steps.
        then: What the body does next.
        order: The saga's order.
        deadline: The saga's deadline, in seconds.
    """

    effects: list[Effect] = field(default_factory=list)
    then: Literal["return", "raise", "sleep", "wait", "bug", "reject", "continue as new", "pivot"] = "return"
    order: Literal["reverse", "concurrent"] = "reverse"
    deadline: float | None = None


def scope(plan: Plan | None = None) -> Saga:
    plan = plan or Plan()
    return Saga(
        compensation_options=UNDO,
        order=plan.order,
        deadline=None if plan.deadline is None else timedelta(seconds=plan.deadline),
    )


def options_of(effect: Effect) -> workflow.ActivityConfig:
    return {
        "start_to_close_timeout": timedelta(seconds=effect.seconds),
        "retry_policy": RetryPolicy(initial_interval=timedelta(milliseconds=20), maximum_attempts=effect.attempts),
    }


def step(saga: Saga, effect: Effect, **options: Any) -> Coroutine[Any, Any, str]:
    return saga.execute_activity(
        do, effect, **{"step": effect.name, "compensation": undo, **options_of(effect), **options}
    )


def by_hand(effect: Effect) -> Coroutine[Any, Any, str]:
    return workflow.execute_activity(do, effect, **options_of(effect))


def boom() -> ApplicationError:
    return ApplicationError("it went wrong", type="Boom")


async def go_on(saga: Saga | None, plan: Plan) -> str:
    """Do what the plan says comes after its steps."""
    if plan.then == "raise":
        raise boom()
    if plan.then == "sleep":
        await asyncio.sleep(3600)
    if plan.then == "wait":
        await workflow.wait_condition(lambda: False)
    if plan.then == "bug":
        raise TypeError("a bug")
    if plan.then == "continue as new":
        workflow.continue_as_new(plan)
    if plan.then == "reject":
        assert saga
        report = await saga.compensate()
        return report.state
    return "done"


@workflow.defn
class Sequence:
    """One step after another."""

    @workflow.run
    async def run(self, plan: Plan) -> str:
        async with scope(plan) as saga:
            for effect in plan.effects:
                await step(saga, effect)
            return await go_on(saga, plan)


@workflow.defn
class Parallel:
    """All steps at once."""

    @workflow.run
    async def run(self, plan: Plan) -> str:
        async with scope(plan) as saga:
            await asyncio.gather(*[step(saga, effect) for effect in plan.effects])
            return await go_on(saga, plan)


@workflow.defn
class Ours:
    """What `tests.textbook` does, with a saga."""

    @workflow.run
    async def run(self, plan: Plan, parallel: bool) -> str:
        if parallel:
            return await Parallel().run(plan)
        return await Sequence().run(plan)


@workflow.defn
class Patient:
    """All steps at once; a failed one is counted, and waits for the others."""

    @workflow.run
    async def run(self, plan: Plan) -> int:
        async with scope(plan) as saga:
            results = await asyncio.gather(*[step(saga, effect) for effect in plan.effects], return_exceptions=True)
            await go_on(saga, plan)
            return sum(isinstance(result, BaseException) for result in results)


@workflow.defn
class SequenceByHand:
    @workflow.run
    async def run(self, plan: Plan) -> str:
        for effect in plan.effects:
            await by_hand(effect)
        return "done"


@workflow.defn
class ParallelByHand:
    @workflow.run
    async def run(self, plan: Plan) -> str:
        await asyncio.gather(*[by_hand(effect) for effect in plan.effects])
        return "done"


@workflow.defn
class TwoThenOne:
    """Two steps that overlap, one after them, and a failure."""

    @workflow.run
    async def run(self, plan: Plan) -> None:
        async with scope(plan) as saga:
            first, second, third = plan.effects
            await asyncio.gather(step(saga, first), step(saga, second))
            await step(saga, third)
            raise boom()


@workflow.defn
class Many:
    """So many compensations that overlap."""

    @workflow.run
    async def run(self, count: int, order: Literal["reverse", "concurrent"]) -> None:
        async with scope(Plan(order=order)) as saga:
            steps = [step(saga, Effect(f"s{number}", undo="slow")) for number in range(count)]
            await asyncio.gather(*steps)
            raise boom()


@workflow.defn
class CatchesTheError:
    """Code after the saga that catches its error."""

    @workflow.run
    async def run(self, plan: Plan) -> str:
        try:
            async with scope(plan) as saga:
                for effect in plan.effects:
                    await step(saga, effect)
                await go_on(saga, plan)
        except ApplicationError:
            await workflow.execute_activity(do, Effect("after"), activity_id="after", start_to_close_timeout=TEN)
        return "went on"


@workflow.defn
class Cards:
    """The first card fails and the body swallows that; the second one pays."""

    @workflow.run
    async def run(self, plan: Plan) -> str:
        first, *others = plan.effects
        async with scope(plan) as saga:
            try:
                await step(saga, first)
            except ActivityError:
                if plan.then == "pivot":
                    saga.pivot()
            for effect in others:
                await step(saga, effect)
            return await go_on(saga, plan)


@workflow.defn
class Carriers:
    """A step, then carriers in turn, each with its pickup and its label in a savepoint."""

    @workflow.run
    async def run(self, plan: Plan) -> str:
        first, *carriers = plan.effects
        caught = []
        async with scope(plan) as saga:
            await step(saga, first)
            for carrier in carriers:
                try:
                    async with saga.savepoint() as attempt:
                        await step(attempt, Effect(f"pickup-{carrier.name}", undo=carrier.undo))
                        await step(attempt, carrier)
                    break
                except ActivityError as error:
                    caught.append(type(error.cause).__name__)
            else:
                raise ApplicationError("no carrier", type="NoCarrier")
            await go_on(saga, plan)
        return ",".join(caught)


@workflow.defn
class Pivots:
    """A step before the pivot and the others after it."""

    @workflow.run
    async def run(self, plan: Plan) -> str:
        first, *others = plan.effects
        async with scope(plan) as saga:
            await step(saga, first)
            saga.pivot()
            for effect in others:
                await step(saga, effect)
            return await go_on(saga, plan)


@workflow.defn
class WaitsFor:
    """A step under `asyncio.wait_for`; its timeout is caught outside the scope."""

    @workflow.run
    async def run(self, plan: Plan) -> str:
        first, second = plan.effects
        try:
            async with scope(plan) as saga:
                await step(saga, first)
                await asyncio.wait_for(step(saga, second), 0.5)
        except asyncio.TimeoutError:
            return "timed out"
        return "in time"


@workflow.defn
class Groups:
    """Steps in a `TaskGroup`, inside the scope or around it."""

    @workflow.run
    async def run(self, plan: Plan, inside: bool) -> None:
        if inside:
            async with scope(plan) as saga:
                await self._all(saga, plan)
        else:
            async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined]
                group.create_task(Sequence().run(plan))

    async def _all(self, saga: Saga, plan: Plan) -> None:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined]
            for effect in plan.effects:
                group.create_task(step(saga, effect))


@workflow.defn
class Outlives:
    """A step in a task that the body does not await."""

    @workflow.run
    async def run(self, plan: Plan) -> str:
        async with scope(plan) as saga:
            tasks = [asyncio.create_task(step(saga, effect)) for effect in plan.effects]
            await asyncio.sleep(0)
            answer = await go_on(saga, plan)
        return f"{answer}, {sum(task.done() for task in tasks)} done"


@workflow.defn
class Registers:
    """A callback of the unwind registers one more compensation."""

    @workflow.run
    async def run(self) -> None:
        async with scope() as saga:
            saga.add_compensation(push, "oldest", step="oldest", start_to_close_timeout=TEN)

            async def while_unwinding() -> None:
                saga.add_compensation(push, "late", step="late", start_to_close_timeout=TEN)

            saga.add_callback(while_unwinding)
            saga.add_compensation(push, "newest", step="newest", start_to_close_timeout=TEN)
            raise boom()


@workflow.defn
class TwoSagas:
    """One saga after another, then one inside another; all with a step of one name."""

    @workflow.run
    async def run(self) -> None:
        for _ in range(2):
            async with scope() as saga:
                await step(saga, Effect("a"))
                await step(saga, Effect("a"))
        async with scope() as outer:
            await step(outer, Effect("a"))
            async with scope() as inner:
                await step(inner, Effect("a"))
            raise boom()


@workflow.defn
class Signalled:
    """Handlers that use the saga of the main method."""

    def __init__(self) -> None:
        self._failing = False
        self._saga: Saga | None = None

    @workflow.run
    async def run(self, plan: Plan) -> str:
        async with scope(plan) as saga:
            self._saga = saga
            for effect in plan.effects:
                await step(saga, effect)
            await workflow.wait_condition(lambda: self._failing)
            if plan.then != "return":
                await go_on(saga, plan)
        await workflow.wait_condition(workflow.all_handlers_finished)
        if plan.then == "return":
            self._failing = False
            await workflow.wait_condition(lambda: self._failing)
        return "done"

    @workflow.signal
    async def end(self) -> None:
        self._failing = True

    @workflow.signal
    async def break_down(self) -> None:
        raise ApplicationError("the handler broke", type="Handler")

    @workflow.signal
    async def break_in_a_step(self, effect: Effect) -> None:
        assert self._saga
        await step(self._saga, effect)

    @workflow.update
    async def add(self, effect: Effect) -> str:
        await workflow.wait_condition(lambda: self._saga is not None)
        assert self._saga
        return await step(self._saga, effect)


@workflow.defn
class OpensInHandler:
    """A saga in a handler, while the main method waits."""

    def __init__(self) -> None:
        self._ended = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self._ended)
        return "main is done"

    @workflow.signal
    def end(self) -> None:
        self._ended = True

    @workflow.signal
    async def transfer_unseen(self, plan: Plan) -> None:
        await Sequence().run(plan)

    @workflow.update
    async def transfer(self, plan: Plan) -> str:
        return await Sequence().run(plan)


@dataclass(frozen=True)
class Hop:
    """What goes from one run to the next."""

    left: int
    then: Literal["return", "raise", "sleep"]
    state: SagaState | None = None
    last: str = "ok"
    """How the last step behaves."""
    pause: bool = False
    """Whether something lies between `detach()` and the next run."""


@workflow.defn
class Hops:
    """A saga that is carried through continue-as-new, a step in each run."""

    @workflow.run
    async def run(self, hop: Hop) -> str:
        async with Saga("journey", compensation_options=UNDO, state=hop.state) as saga:
            await step(saga, Effect("a"))
            await step(saga, Effect(f"b{hop.left}", "ok" if hop.left else hop.last))
            if hop.left:
                state = saga.detach()
                if hop.pause:
                    await by_hand(Effect("between"))
                workflow.continue_as_new(Hop(hop.left - 1, hop.then, state, hop.last))
            await go_on(saga, Plan(then=hop.then))
            return saga.name


@workflow.defn
class Parent:
    """A step, then a child workflow as a step, its undo a child too; then what the plan says."""

    @workflow.run
    async def run(self, plan: Plan, of_the_child: Plan, undo_by: Plan) -> str:
        async with scope(plan) as saga:
            for effect in plan.effects:
                await step(saga, effect)
            await saga.execute_child_workflow(
                Sequence.run, of_the_child, compensation=Compensation(Sequence.run, undo_by), step="child"
            )
            return await go_on(saga, plan)


@workflow.defn
class Detaches:
    """A child that hands its open saga over to its parent."""

    @workflow.run
    async def run(self, plan: Plan) -> SagaState:
        async with scope(plan) as saga:
            for effect in plan.effects:
                await step(saga, effect)
            return saga.detach()


@workflow.defn
class Adopts:
    """A parent whose saga takes the entries of a child's over."""

    @workflow.run
    async def run(self, before: Effect, of_the_child: Plan, after: Effect) -> None:
        async with scope() as saga:
            await step(saga, before)
            await saga.execute_child_workflow(
                Detaches.run, of_the_child, compensation_from=lambda outcome: outcome.result, step="child"
            )
            await step(saga, after)
            raise boom()


@workflow.defn
class Kinds:
    """Each kind of activity as a step and as a compensation."""

    @workflow.run
    async def run(self) -> None:
        async with Saga(activity_options=presets.standard(), compensation_options=UNDO) as saga:
            await saga.execute_activity(stamp, "thread", compensation=unstamp, step="thread")
            await saga.execute_activity_method(
                Desk.reserve, args=["method", 2], compensation=Desk.release, step="method"
            )
            # A checker knows callable classes from `workflow.execute_activity_class` alone.
            seal: Any = Seal
            unseal: Any = Unseal
            await saga.execute_activity(seal, "called", compensation=unseal, step="called")
            await saga.execute_activity("do", Effect("named"), result_type=str, compensation="undo", step="named")
            await saga.execute_activity(
                do, Effect("chosen"), compensation_from=lambda outcome: Compensation(undo, outcome.input), step="chosen"
            )
            raise boom()


@workflow.defn
class Queues:
    """A step on a queue without a worker, after one on the workflow's own."""

    @workflow.run
    async def run(self, plan: Plan) -> None:
        first, second = plan.effects
        async with scope(plan) as saga:
            await step(saga, first)
            await step(
                saga, second, task_queue="nobody-works-here", schedule_to_start_timeout=timedelta(milliseconds=200)
            )


@workflow.defn
class CancelsAtOnce:
    """A step that is cancelled in the workflow task that schedules it."""

    @workflow.run
    async def run(self, plan: Plan) -> None:
        first, second = plan.effects
        async with scope(plan) as saga:
            await step(saga, first)
            task = asyncio.create_task(step(saga, second))
            await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            raise boom()


@workflow.defn
class Backoff:
    """The first step waits long for its next attempt, while the second one runs."""

    @workflow.run
    async def run(self, plan: Plan) -> None:
        first, second = plan.effects
        slow = RetryPolicy(initial_interval=timedelta(hours=1))
        async with scope(plan) as saga:
            await asyncio.gather(step(saga, first, retry_policy=slow), step(saga, second))


@workflow.defn
class MissingUndo:
    """A compensation that the worker does not know."""

    @workflow.run
    async def run(self) -> None:
        async with scope() as saga:
            await step(saga, Effect("a"), compensation="undo_of_a_later_release")
            raise boom()


@workflow.defn(name="Fixable")
class Buggy:
    """Has a bug after its first step."""

    @workflow.run
    async def run(self) -> str:
        async with scope() as saga:
            await step(saga, Effect("a"))
            await step(saga, Effect(name=None + "b"))  # type: ignore[operator]
        return "done"


@workflow.defn(name="Fixable")
class Fixed:
    @workflow.run
    async def run(self) -> str:
        async with scope() as saga:
            await step(saga, Effect("a"))
            await step(saga, Effect(name="b"))
        return "done"


@workflow.defn
class Resettable:
    """Something before the saga, a saga that unwinds, something after it."""

    @workflow.run
    async def run(self) -> str:
        await by_hand(Effect("before"))
        with suppress(ApplicationError):
            async with scope() as saga:
                await step(saga, Effect("a"))
                await step(saga, Effect("a"))
                raise boom()
        await by_hand(Effect("after"))
        return "done"


@workflow.defn
class StartsAndRaises:
    """The body fails in the workflow task that starts its child."""

    @workflow.run
    async def run(self, of_the_child: Plan) -> None:
        async with scope() as saga:
            child = asyncio.create_task(
                saga.execute_child_workflow(
                    Sequence.run, of_the_child, compensation=Compensation(Sequence.run, Plan()), step="child"
                )
            )
            await asyncio.sleep(0)
            assert not child.done()
            raise boom()


@workflow.defn
class UndoOptions:
    """A compensation with little time and one attempt."""

    @workflow.run
    async def run(self, effect: Effect) -> None:
        async with scope() as saga:
            await step(saga, Effect("older"))
            await step(
                saga,
                effect,
                compensation=Compensation(
                    undo,
                    effect,
                    start_to_close_timeout=timedelta(milliseconds=200),
                    retry_policy=RetryPolicy(maximum_attempts=1),
                ),
            )
            raise boom()


@workflow.defn
class Reverts:
    """Its undo takes as long as the test wants; queries come meanwhile."""

    @workflow.run
    async def run(self, secret: str) -> None:
        async with scope() as saga:
            await saga.execute_activity(
                do, Effect("a", undo="gate"), step="a", compensation=undo, start_to_close_timeout=TEN
            )
            await saga.execute_activity(
                "whisper",
                secret,
                compensation=Compensation("whisper", secret),
                step="b",
                start_to_close_timeout=TEN,
                retry_policy=RetryPolicy(maximum_attempts=1),
            )


@workflow.defn
class OwnQuery:
    """A query handler of the name that the library uses."""

    @workflow.run
    async def run(self) -> None:
        async with scope():
            await asyncio.sleep(0)

    @workflow.query
    def saga_report(self) -> str:
        return "mine"


WORKFLOWS: list[type] = [
    Adopts,
    Backoff,
    CancelsAtOnce,
    Cards,
    Carriers,
    CatchesTheError,
    Detaches,
    Fixed,
    Groups,
    Hops,
    Kinds,
    Many,
    MissingUndo,
    OpensInHandler,
    Ours,
    Outlives,
    OwnQuery,
    Parallel,
    ParallelByHand,
    Parent,
    Patient,
    Pivots,
    Queues,
    Registers,
    Resettable,
    Reverts,
    Sequence,
    SequenceByHand,
    Signalled,
    StartsAndRaises,
    TwoSagas,
    TwoThenOne,
    UndoOptions,
    WaitsFor,
]
