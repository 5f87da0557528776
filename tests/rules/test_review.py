"""Corners where client data, control flow or a nested scope meets a cancel or the close of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from temporal_saga import Saga, SagaState
from temporal_saga.plugin import SagaPlugin
from tests.driver import Event, Run, cancel, child_completed, child_started, completed, failed, signal, timer, update
from tests.rules.cancelling import TaskGroup, counts, timeout
from tests.rules.workflows import REFUSED, SECOND, do, end, flow, new_saga, undone

pytestmark = [
    pytest.mark.usefixtures("collected"),
    # Python's own word on a call that a failed gather gave up comes whenever the coroutine is collected.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
both = pytest.mark.parametrize("with_plugin", [False, True])


def run_of(body: Callable[[], Awaitable[Any]] | type[Any], with_plugin: bool, **options: Any) -> Run:
    """Return a run that has not started, of a workflow or of the function that is its main method."""
    workflow_class = body if isinstance(body, type) else flow(body)
    return Run(workflow_class, plugins=[SagaPlugin()] if with_plugin else [], **options)


@workflow.defn
class Cart:
    """A saga whose steps come by updates."""

    def __init__(self) -> None:
        self.closing = False

    @workflow.run
    async def run(self) -> str:
        async with new_saga() as saga:
            self.saga = saga
            await workflow.wait_condition(lambda: self.closing)
        return "ok"

    @workflow.update
    async def add(self, items: list[str]) -> None:
        await asyncio.gather(*[do(self.saga, "a", key=item) for item in items])

    @workflow.update
    async def remove(self, key: str) -> None:
        await self.saga.undo("a", key=key)

    @workflow.signal
    def close(self) -> None:
        self.closing = True


@both
def test_review_a_duplicate_key_in_the_gather_of_an_update_does_not_wedge_the_good_end(with_plugin: bool) -> None:
    """A client's data fails the client's update alone: a call that the update gave up with it is not misuse."""
    run = run_of(Cart, with_plugin).start()
    run.activate(update("add", ["x", "x"]))
    (rejected,) = [command for command in run.commands if command[0] == "update_rejected"]
    assert rejected[2].type == "DuplicateStep"
    run.activate(signal("close"))
    assert end(run) == "ok"
    run.check()


@both
def test_review_an_empty_key_of_undo_in_an_update_fails_the_update(with_plugin: bool) -> None:
    """A client's empty key fails the client's update, and neither the workflow task nor the run."""
    run = run_of(Cart, with_plugin).start()
    run.activate(update("add", ["x"]))
    run.activate(completed("a"))
    run.activate(update("remove", ""))
    assert run.task_failure is None
    (rejected,) = [command for command in run.commands if command[0] == "update_rejected"]
    assert rejected[2].type == "EmptyKey"
    run.activate(signal("close"))
    assert run.history == ["a"]
    assert end(run) == "ok"
    run.check()


@both
@pytest.mark.parametrize("fails", [False, True])
def test_review_to_leave_a_saga_in_another_task_is_misuse(with_plugin: bool, fails: bool) -> None:
    """A scope that cannot unwind where it is left says so: its undos are not lost in silence."""

    async def body() -> None:
        stack = AsyncExitStack()

        async def opener() -> Saga:
            saga = await stack.enter_async_context(new_saga())
            await do(saga, "a")
            return saga

        saga = await asyncio.create_task(opener())
        async with stack:
            await do(saga, "b")
            if fails:
                raise REFUSED

    run = run_of(body, with_plugin).autopilot({})
    assert run.closed is None
    assert run.task_failure is not None
    assert "left in another task" in run.task_failure[2]
    assert "enter and leave it in one task" in run.task_failure[2]


@workflow.defn
class GoesOnAsNew:
    """Continues as new inside its saga, once it is told to."""

    def __init__(self) -> None:
        self.told = False

    @workflow.run
    async def run(self) -> None:
        async with new_saga() as saga:
            self.saga = saga
            await do(saga, "a")
            await workflow.wait_condition(lambda: self.told)
            workflow.continue_as_new()

    @workflow.update
    async def remove(self) -> None:
        await self.saga.undo("a")

    @workflow.signal
    def go_on(self) -> None:
        self.told = True


@both
def test_review_continue_as_new_with_an_undo_in_flight_is_misuse(with_plugin: bool) -> None:
    """An undo that is under way belongs to its scope: the next run would never learn how it ended."""
    run = run_of(GoesOnAsNew, with_plugin).start()
    run.activate(completed("a"))
    run.activate(update("remove"))
    assert run.names == ["undo_a"]
    run.activate(signal("go_on"))
    assert run.closed is None
    assert run.task_failure is not None
    assert "saga.detach()" in run.task_failure[2]


@counts
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("single_batch", [False, True])
@pytest.mark.parametrize("cancel_first", [False, True])
def test_review_a_pivot_raises_the_cancel_that_is_on_its_way_through_task_groups(
    depth: int, single_batch: bool, cancel_first: bool
) -> None:
    """A pivot that the workflow's cancel has overtaken raises the cancel: the run undoes, and is not half done."""

    async def level(depth: int) -> None:
        if depth:
            async with TaskGroup() as group:
                group.create_task(level(depth - 1))
            return
        async with new_saga() as saga:
            await do(saga, "a")
            saga.pivot()
            await do(saga, "b", compensation=None)
            await do(saga, "c", compensation=None)

    async def body() -> None:
        await level(depth)

    run = run_of(body, True, single_batch=single_batch).start()
    events: list[Event] = [completed("a"), cancel()]
    run.activate(*(reversed(events) if cancel_first else events))
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    assert run.history == ["a", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


@both
@pytest.mark.parametrize("control_flow", ["GeneratorExit", "ContinueAsNewError"])
def test_review_a_scope_left_by_control_flow_past_its_pivot_holds_no_cancel(
    with_plugin: bool, control_flow: str
) -> None:
    """A pivot holds the workflow's cancel until its scope is left, however the scope is left."""

    async def pages() -> AsyncGenerator[int, None]:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.pivot()
            yield 1
            yield 2

    async def generator() -> None:
        async with aclosing(pages()) as iterator:
            async for _ in iterator:
                break

    async def caught() -> None:
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                saga.pivot()
                workflow.continue_as_new()
        except workflow.ContinueAsNewError:
            pass

    async def body() -> None:
        await (generator() if control_flow == "GeneratorExit" else caught())
        await workflow.wait_condition(lambda: False)

    run = run_of(body, with_plugin).start()
    run.activate(completed("a"))
    assert run.closed is None
    run.activate(cancel())
    assert run.history == ["a"]
    assert end(run) == "Cancelled"
    run.check()


@both
def test_review_continue_as_new_past_the_pivot_meets_the_held_cancel(with_plugin: bool) -> None:
    """The next run would never learn of a cancel that a pivot holds: the run that was cancelled ends Cancelled."""

    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.pivot()
            await do(saga, "b", compensation=None)
            workflow.continue_as_new()

    run = run_of(body, with_plugin).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("b"))
    assert undone(run) == []
    assert end(run) == "Cancelled"
    run.check()


@workflow.defn
class NestedInAHandler:
    """Its update has a saga past its pivot inside another one; the main method returns meanwhile."""

    def __init__(self) -> None:
        self.told = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.told)
        return "done"

    @workflow.update
    async def one(self) -> None:
        async with new_saga("outer") as outer:
            await do(outer, "o")
            async with new_saga("inner") as inner:
                await do(inner, "a")
                inner.pivot()
                await do(inner, "b", compensation=None)
                await do(inner, "c", compensation=None)

    @workflow.signal
    def close(self) -> None:
        self.told = True


def test_review_the_plugin_cancels_no_saga_past_its_pivot_by_the_owner_of_its_outer_saga() -> None:
    """Past its pivot a saga goes on to its end, also where the plugin cancels the sagas around it."""
    run = run_of(NestedInAHandler, True).start()
    run.activate(update("one"))
    run.activate(completed("o"))
    run.activate(completed("a"))
    run.activate(signal("close"))
    run.activate(completed("b"))
    assert run.names == ["c"]
    run.autopilot({})
    assert run.history[:4] == ["o", "a", "b", "c"]
    assert "undo_a" not in run.history
    assert end(run) == "done"
    run.check()


@workflow.defn
class NestedInABranch:
    """A branch of its main method has a saga past its pivot inside another one; a signal fails the run meanwhile."""

    @workflow.run
    async def run(self) -> None:
        async def branch() -> None:
            async with new_saga("inner") as inner:
                await do(inner, "a")
                inner.pivot()
                await do(inner, "b", compensation=None)
                await do(inner, "c", compensation=None)

        async with new_saga("outer") as outer:
            await do(outer, "o")
            await asyncio.gather(branch())

    @workflow.signal
    async def bad(self) -> None:
        raise REFUSED


def test_review_a_signal_that_fails_the_run_cancels_no_branch_past_its_pivot() -> None:
    """Past its pivot a saga goes on to its end, also in a branch of the main method, whose outer saga is open."""
    run = run_of(NestedInABranch, True).start()
    run.activate(completed("o"))
    run.activate(completed("a"))
    run.activate(signal("bad"))
    run.activate(completed("b"))
    assert run.names == ["c"]
    run.autopilot({})
    assert run.history[:4] == ["o", "a", "b", "c"]
    assert "undo_a" not in run.history
    assert end(run) == "Refused"


@workflow.defn
class ManySagas:
    """Each update has a saga that never ends by itself."""

    def __init__(self) -> None:
        self.told = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self.told)
        return "done"

    @workflow.update
    async def one(self, name: str) -> None:
        async with new_saga(name) as saga:
            await do(saga, name)
            await workflow.wait_condition(lambda: False)

    @workflow.signal
    def close(self) -> None:
        self.told = True


def test_review_a_saga_that_begins_while_the_close_is_held_is_cancelled_too() -> None:
    """The plugin cancels each saga that it holds the close for: one that begins later ends too."""
    run = run_of(ManySagas, True).start()
    run.activate(update("one", "x"))
    run.activate(completed("x"))
    run.activate(signal("close"))
    assert run.names == ["undo_x"]
    run.activate(update("one", "y", update_id="two"))
    run.activate(completed("undo_x"))
    run.autopilot({})
    assert end(run) == "done"
    run.check()


def test_review_many_unwinds_whose_callbacks_unwind_sagas_do_not_lock_up() -> None:
    """An unwind inside a callback does not wait for the room of the unwind that it is a part of."""
    many = 500

    async def body() -> None:
        async def callback(number: int) -> None:
            try:
                async with new_saga(f"callback{number}") as saga:
                    saga.add_compensation("undo_x", number)
                    raise REFUSED
            except ApplicationError:
                pass

        async def branch(number: int) -> None:
            async with new_saga(f"saga{number}") as saga:
                saga.add_callback(callback, number)
                await workflow.wait_condition(lambda: False)

        await asyncio.gather(*[branch(number) for number in range(many)])

    run = run_of(body, True).start()
    run.activate(cancel())
    assert set(run.names) == {"undo_x"}
    while run.names:
        run.activate(*[completed(activity.id) for activity in run.activities])
    assert len(undone(run)) == many
    assert end(run) == "Cancelled"


class _RefusesUndoB(Interceptor):
    """A worker's policy that lets `undo_b` not start."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        class Outbound(WorkflowOutboundInterceptor):
            def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
                if input.activity == "undo_b":
                    raise ApplicationError("policy", type="Policy", non_retryable=True)
                return super().start_activity(input)

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(outbound))

        return Inbound


@both
def test_review_an_undo_that_does_not_start_keeps_no_room(with_plugin: bool) -> None:
    """An undo whose start raises has failed, and gives back what it took of the room of the undos in flight."""

    async def body() -> None:
        async with new_saga() as saga:
            saga.add_compensation("undo_a", "x" * 900_000)
            saga.add_compensation("undo_b", "x" * 900_000)
            raise REFUSED

    run = run_of(body, with_plugin, interceptors=[_RefusesUndoB()]).start()
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    assert run.history == ["undo_a"]
    assert end(run) == "CompensationError"
    run.check()


def test_review_a_task_of_a_callback_that_outlives_the_unwind_does_not_hold_the_close() -> None:
    """Only sagas within a callback are a part of its unwind: a later one, of a task it made, is cancelled."""
    tasks = []

    async def body() -> str:
        async def late() -> None:
            await asyncio.sleep(1)
            async with new_saga("late") as saga:
                await do(saga, "x")
                await workflow.wait_condition(lambda: False)

        async def callback() -> None:
            tasks.append(asyncio.create_task(late()))

        try:
            async with new_saga() as saga:
                saga.add_callback(callback)
                raise REFUSED
        except ApplicationError:
            pass
        await asyncio.sleep(5)
        return "done"

    run = run_of(body, True).start()
    run.activate(timer())
    run.activate(completed("x"))
    run.activate(timer())
    assert run.names == ["undo_x"]
    run.activate(completed("undo_x"))
    assert end(run) == "done"
    run.check()


@both
def test_review_detach_names_the_callback_that_failed(with_plugin: bool) -> None:
    """A callback that failed for good cannot travel: the error says which callback it is, and what to push instead."""

    async def give_back_the_seat() -> None:
        raise ApplicationError("no", type="No", non_retryable=True)

    async def body() -> Any:
        async with new_saga() as saga:
            try:
                async with saga.savepoint() as attempt:
                    attempt.add_callback(give_back_the_seat)
                    raise REFUSED
            except ApplicationError:
                pass
            await do(saga, "a")
            return saga.detach()

    run = run_of(body, with_plugin).autopilot({})
    assert run.task_failure is not None
    assert "give_back_the_seat" in run.task_failure[2]
    assert "push an activity instead" in run.task_failure[2]


@both
@pytest.mark.parametrize("single_batch", [False, True])
def test_review_a_cancel_during_the_drain_after_a_deadline_undoes_what_a_child_detached(
    with_plugin: bool, single_batch: bool
) -> None:
    """A cancel after a deadline, while a child is drained: the child's entries are undone, and no undo failed."""

    async def of_the_child() -> Any:
        async with new_saga() as saga:
            await do(saga, "x")
            await do(saga, "y")
            return saga.detach()

    state = Run(flow(of_the_child)).autopilot({}).result

    async def body() -> None:
        async with new_saga(deadline=timedelta(seconds=4)) as saga:

            async def part() -> None:
                await saga.execute_child_workflow(
                    "Child", result_type=SagaState, compensation_from=lambda outcome: outcome.result
                )

            try:
                await asyncio.wait_for(part(), 1)
            except Exception:
                await saga.undo("a")

    run = run_of(body, with_plugin, single_batch=single_batch).start()
    run.activate(child_started("Child"))
    run.advance(SECOND)
    run.advance(timedelta(seconds=3))
    run.activate(cancel())
    assert run.closed is None
    run.activate(child_completed("Child", state))
    run.autopilot({})
    assert undone(run) == ["undo_y", "undo_x"]
    assert end(run) in ("SagaDeadlineExceeded", "Cancelled")  # which of the two the body raises, `wait_for` decides
    run.check()


@counts
@both
def test_review_the_workflows_cancel_outlives_a_timeout_that_cut_the_saga_short(with_plugin: bool) -> None:
    """A timeout ends a saga, a cancel comes during the unwind, and the undo fails: the cancel is delivered."""

    async def body() -> str:
        try:
            async with timeout(1), new_saga() as saga:
                await do(saga, "a")
                await asyncio.sleep(3600)
        except ApplicationError:
            pass  # CompensationError
        await asyncio.sleep(60)
        return "went on"

    run = run_of(body, with_plugin).start()
    run.activate(completed("a"))
    run.advance(SECOND)
    run.activate(cancel())
    run.activate(failed("undo_a", REFUSED))
    run.autopilot({})
    assert end(run) == "Cancelled"
    run.check()
