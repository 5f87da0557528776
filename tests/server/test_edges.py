"""Edges that only a real server shows: lost workers, resets, children, histories."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import CancelledError
from temporalio.testing import WorkflowEnvironment

from .pydantic_workflows import SEEN, Leg, Payment, Pays, pay, refund
from .support import History, Replays, Run, Runs, causes, eventually
from .workflows import (
    WORKFLOWS,
    Adopts,
    Buggy,
    Carriers,
    Fixed,
    Hop,
    Hops,
    Kinds,
    Many,
    MissingUndo,
    Parent,
    Pivots,
    Plan,
    Resettable,
    Sequence,
    StartsAndRaises,
    TwoSagas,
    UndoOptions,
)
from .world import ACTIVITIES, BOOKS, Effect

BOOM = "ApplicationError Boom"
NOT_UNDONE = "ApplicationError CompensationError"


# --- workers that stop, die and are deployed anew


async def test_a_bug_and_then_a_fixed_deployment_that_carries_on(runs: Runs) -> None:
    async with runs.worker(workflows=[Buggy]) as queue:
        run = await runs.start(Buggy.run, queue=queue)
        assert "NoneType" in await run.task_failure()
        assert run.book.stands == ["a"]
    async with runs.worker(queue, workflows=[Fixed]):
        assert await run.handle.result() == "done"
    assert (await run.history()).steps == ["a:do", "b:do"]
    assert run.book.stands == ["a", "b"]


async def test_stopped_between_a_step_and_its_undo(runs: Runs) -> None:
    plan = Plan([Effect("a"), Effect("b", undo="gate")], "sleep")
    async with runs.worker() as queue:
        run = await runs.start(Sequence.run, plan, queue=queue)
        await run.event("TIMER_STARTED")
    await run.handle.cancel()
    async with runs.worker(queue):
        await run.reached("b:undo")
    # Stopped again: the undo, which was cancelled with its worker, is retried on the next one.
    run.open("b:undo")
    async with runs.worker(queue):
        assert isinstance(await run.failure(), CancelledError)
    assert (await run.history()).undone == ["b", "a"]
    assert run.book.stands == []


@asynccontextmanager
async def process(client: Client, queue: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker in a process of its own, killed in the end."""
    address = client.service_client.config.target_host
    worker = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.server.worker", address, queue)
    try:
        yield worker
    finally:
        if worker.returncode is None:
            worker.send_signal(signal.SIGKILL)
        await worker.wait()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("during", ["step", "undo"])
async def test_killed_in_the_middle(client: Client, runs: Runs, during: str) -> None:
    queue = f"q-{uuid4()}"
    hanging = {"step": Effect("b", "hangs first", seconds=1.5, attempts=1), "undo": Effect("b", undo="hangs first")}[
        during
    ]
    run = await runs.start(Sequence.run, Plan([Effect("a"), hanging], "raise"), queue=queue)
    async with process(client, queue) as worker:
        await eventually(lambda: is_pending(run, "b:do" if during == "step" else "b:undo"))
        worker.send_signal(signal.SIGKILL)
    async with runs.worker(queue):
        # The step has timed out, and may have applied; the undo is tried again.
        failure = await run.failure()
    expected = ["ActivityError", "TimeoutError"] if during == "step" else [BOOM]
    assert causes(failure)[: len(expected)] == expected
    assert (await run.history()).steps == ["a:do", "b:do", "b:undo", "a:undo"]


async def is_pending(run: Run, step: str) -> bool:
    """Whether an activity has been started and has not ended."""
    description = await run.handle.describe()
    return any(
        pending.activity_id.startswith(step) and pending.state == 2  # STARTED
        for pending in description.raw_description.pending_activities
    )


async def test_a_result_and_a_cancel_in_one_workflow_task(runs: Runs) -> None:
    async with runs.worker(workflows=[]) as queue:  # activities alone
        async with runs.worker(queue, activities=[]):
            run = await runs.start(Sequence.run, Plan([Effect("a", "gate"), Effect("b")]), queue=queue)
            await run.reached("a:do")
        run.open("a:do")
        await eventually(lambda: run.book.stands == ["a"])
        await run.handle.cancel()
        async with runs.worker(queue, activities=[]):
            assert isinstance(await run.failure(), CancelledError)
    assert (await run.history()).steps == ["a:do", "a:undo"]


async def test_an_activity_that_never_heartbeats_holds_the_unwind(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a", "deaf")]))
    await run.reached("a:do")
    await run.handle.cancel()
    await run.event("ACTIVITY_TASK_CANCEL_REQUESTED")
    assert (await run.history()).undone == []
    run.open("a:do")
    assert isinstance(await run.failure(), CancelledError)
    assert (await run.history()).undone == ["a"]
    assert run.book.stands == []


# --- keys


@pytest.mark.parametrize("then", ["return", "raise", "sleep"])
async def test_three_times_continue_as_new_with_a_stack(runs: Runs, then: Any) -> None:
    run = await runs.start(Hops.run, Hop(3, then))
    last = runs.client.get_workflow_handle(run.handle.id)
    if then == "sleep":
        await eventually(lambda: run.book.began.count("a:do") == 4)
        await eventually(lambda: in_timer(Run(last)))
        await last.cancel()
    if then == "return":
        assert await run.handle.result() == "journey"
    else:
        await run.failure()
    first, *others = sorted(await runs.histories(), key=lambda history: history.events[0].task_id)
    assert len(others) == 3
    done = [id for history in (first, *others) for id in history.ids if ":do:" in id]
    undone = [id for id in others[-1].ids if ":undo:" in id]
    assert [name.partition(":")[0] for name in done] == ["a", "b3", "a", "b2", "a", "b1", "a", "b0"]
    assert len(set(done)) == 8
    expected = [] if then == "return" else [id.replace(":do:", ":undo:") for id in reversed(done)]
    assert undone == expected
    assert len(run.book.stands) == (8 if then == "return" else 0)


async def in_timer(run: Run) -> bool:
    return "TIMER_STARTED" in (await run.history()).types


async def test_a_reset_to_each_point_keeps_the_keys(runs: Runs) -> None:
    run = await runs.start(Resettable.run)
    assert await run.handle.result() == "done"
    original = await run.history()
    ids = [id for id in original.ids if ":" in id]
    assert len(ids) == len(set(ids)) == 4
    points = [event.event_id for event in original.of("WORKFLOW_TASK_COMPLETED")]
    assert len(points) >= 6
    for point in points:
        again = await runs.reset(run, point)
        assert await again.handle.result() == "done"
        history = await again.history()
        assert [id for id in history.ids if ":" in id] == ids
    # Whatever ran twice did so under its own key, so that nothing stands twice.
    assert len(set(run.book.keys["a:do"])) == 2
    assert run.book.stands == ["before", "after"]


@pytest.mark.parametrize("task", [0, 1], ids=["to the start", "to the step"])
async def test_a_step_that_is_refused_after_a_reset_is_undone(runs: Runs, task: int) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a"), Effect("b", "declined again")]))
    assert await run.handle.result() == "done"
    assert run.book.stands == ["a", "b"]
    points = (await run.history()).of("WORKFLOW_TASK_COMPLETED")
    again = await runs.reset(run, points[task].event_id)
    assert causes(await again.failure()) == ["ActivityError", "ApplicationError Declined"]
    assert (await again.history()).undone == ["b", "a"]
    assert run.book.stands == []


@pytest.mark.parametrize("task", [0, 3], ids=["to the start", "to behind detach()"])
async def test_a_step_that_is_refused_after_a_reset_and_continue_as_new_is_undone(runs: Runs, task: int) -> None:
    run = await runs.start(Hops.run, Hop(1, "return", last="declined again", pause=True))
    assert await run.handle.result() == "journey"
    first = runs.child(run.handle.id, run.handle.first_execution_run_id)
    points = (await first.history()).of("WORKFLOW_TASK_COMPLETED")
    again = await runs.reset(first, points[task].event_id)
    assert causes(await again.failure()) == ["ActivityError", "ApplicationError Declined"]
    assert run.book.began.count("b0:do") == 2
    assert run.book.stands == ["between"]


async def test_two_in_a_row_and_one_inside_another(runs: Runs) -> None:
    run = await runs.start(TwoSagas.run)
    assert causes(await run.failure()) == [BOOM]
    history = await run.history()
    done = [id for id in history.ids if ":do:" in id]
    assert len(set(done)) == 6
    # The inner one ended well, and is final.
    assert [id for id in history.ids if ":undo:" in id] == [done[4].replace(":do:", ":undo:")]


# --- compensations that do not go well


async def test_a_compensation_that_times_out(runs: Runs) -> None:
    run = await runs.start(UndoOptions.run, Effect("a", undo="deaf"))
    assert causes(await run.failure()) == [NOT_UNDONE, BOOM]
    assert (await run.history()).undone == ["a", "older"]
    assert run.book.stands == ["a"]


async def test_a_compensation_that_an_operator_cancels(runs: Runs) -> None:
    hanging = Plan([Effect("u", "gate")])
    run = await runs.start(Parent.run, Plan([Effect("a")], "raise"), Plan([Effect("c")]), hanging)
    started = await run.event("CHILD_WORKFLOW_EXECUTION_STARTED", 2)
    attributes = started[1].child_workflow_execution_started_event_attributes
    undo = runs.child(attributes.workflow_execution.workflow_id)
    assert undo.handle.id.startswith("child:undo:")
    await undo.reached("u:do")
    await undo.handle.cancel()
    assert causes(await run.failure()) == [NOT_UNDONE, BOOM]
    assert (await run.history()).undone == ["a"]
    (report,) = await run.report()
    assert [step["undo_state"] for step in report["steps"]] == ["DONE", "FAILED"]


async def test_a_compensation_that_is_not_registered_yet(runs: Runs) -> None:
    @activity.defn
    async def undo_of_a_later_release(effect: Effect) -> None:
        BOOKS[activity.info().workflow_id or ""].standing.clear()

    async with runs.worker() as queue:
        run = await runs.start(MissingUndo.run, queue=queue)

        async def pending() -> Any:
            raw = (await run.handle.describe()).raw_description
            return [each for each in raw.pending_activities if each.HasField("last_failure")]

        (waiting,) = await eventually(pending)
        assert waiting.activity_id.startswith("a:undo:")
        assert "undo_of_a_later_release" in waiting.last_failure.message
    async with runs.worker(queue, activities=[*ACTIVITIES, undo_of_a_later_release]):
        assert causes(await run.failure()) == [BOOM]
    assert run.book.stands == []


async def test_three_hundred_at_once(cached_runs: Runs) -> None:
    run = await cached_runs.start(Many.run, 300, "concurrent")
    assert causes(await run.failure()) == [BOOM]
    assert len((await run.history()).undone) == len(set(run.book.began)) / 2 == 300
    assert run.book.most > 1
    assert run.book.stands == []


# --- children


async def test_a_child_as_a_step_and_as_a_compensation(runs: Runs) -> None:
    run = await runs.start(Parent.run, Plan([Effect("a")], "raise"), Plan([Effect("c")]), Plan([Effect("u")]))
    assert causes(await run.failure()) == [BOOM]
    do, undo = children_of(await run.history())
    assert do.partition(":do:")[2] == undo.partition(":undo:")[2] != ""
    assert BOOKS[do].stands == ["c"]
    assert BOOKS[undo].stands == ["u"]
    assert run.book.stands == []


async def test_a_child_that_fails_unwinds_itself_and_its_parent(runs: Runs) -> None:
    run = await runs.start(Parent.run, Plan([Effect("a")]), Plan([Effect("c"), Effect("d", "boom")]), Plan())
    assert causes(await run.failure()) == ["ChildWorkflowError", "ActivityError", BOOM]
    do, undo = children_of(await run.history())
    assert BOOKS[do].stands == run.book.stands == []
    assert undo.startswith("child:undo:")


async def test_a_parent_that_is_cancelled_drains_its_child(runs: Runs) -> None:
    run = await runs.start(Parent.run, Plan([Effect("a")]), Plan([Effect("c")], "sleep"), Plan())
    (child_id,) = await eventually(lambda: children(run, 1))
    child = runs.child(child_id)
    await child.event("TIMER_STARTED")
    await run.handle.cancel()
    assert isinstance(await run.failure(), CancelledError)
    assert await child.status() is WorkflowExecutionStatus.CANCELED
    assert child.book.stands == run.book.stands == []


async def test_a_parent_that_fails_while_its_child_starts(runs: Runs) -> None:
    run = await runs.start(StartsAndRaises.run, Plan([Effect("c")], "sleep"))
    assert causes(await run.failure()) == [BOOM]
    do, undo = children_of(await run.history())
    assert await runs.child(do).status() is WorkflowExecutionStatus.CANCELED
    assert BOOKS[do].stands == []
    # Nothing proves that a child has done nothing.
    assert undo.startswith("child:undo:")


async def test_a_parent_that_is_cancelled_as_soon_as_its_child_is_initiated(runs: Runs) -> None:
    # The cancel meets the child before or after it has started; both ways it must not be lost.
    run = await runs.start(Parent.run, Plan(), Plan([Effect("c")], "sleep"), Plan())
    await run.event("START_CHILD_WORKFLOW_EXECUTION_INITIATED")
    await run.handle.cancel()
    assert isinstance(await run.failure(), CancelledError)
    (do, *_) = children_of(await run.history())
    assert await runs.child(do).status() is WorkflowExecutionStatus.CANCELED
    assert BOOKS[do].stands == []


async def test_the_child_of_a_terminated_parent_unwinds(runs: Runs) -> None:
    run = await runs.start(Parent.run, Plan([Effect("a")]), Plan([Effect("c")], "sleep"), Plan())
    (child_id,) = await eventually(lambda: children(run, 1))
    child = runs.child(child_id)
    await child.event("TIMER_STARTED")
    await run.handle.terminate("by an operator")
    assert isinstance(await child.failure(), CancelledError)
    assert child.book.stands == []
    # No code of the parent runs any more: what it did stands, as the contract says.
    assert run.book.stands == ["a"]


async def test_a_child_that_hands_its_saga_over(runs: Runs) -> None:
    run = await runs.start(Adopts.run, Effect("before"), Plan([Effect("c"), Effect("d")]), Effect("after"))
    assert causes(await run.failure()) == [BOOM]
    assert (await run.history()).undone == ["after", "d", "c", "before"]


def children_of(history: History) -> list[str]:
    """The ids of the children, in the order in which they were started."""
    return [
        event.start_child_workflow_execution_initiated_event_attributes.workflow_id
        for event in history.of("START_CHILD_WORKFLOW_EXECUTION_INITIATED")
    ]


async def children(run: Run, count: int) -> list[str]:
    started = (await run.history()).of("CHILD_WORKFLOW_EXECUTION_STARTED")
    return children_of(await run.history()) if len(started) == count else []


# --- queries, savepoints, the pivot, the deadline


async def test_a_query_in_the_middle_of_an_unwind_and_after_the_close(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a"), Effect("b", undo="gate")], "raise"))
    await run.reached("b:undo")
    (report,) = await run.report()
    assert report["state"] == "UNWINDING"
    assert [step["undo_state"] for step in report["steps"]] == ["PENDING", "RUNNING"]
    run.open("b:undo")
    await run.failure()
    (report,) = await run.report()
    assert report["state"] == "COMPENSATED"
    assert [step["undo_state"] for step in report["steps"]] == ["DONE", "DONE"]


async def test_a_rejected_review_is_no_exception(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a"), Effect("b")], "reject"))
    assert await run.handle.result() == "COMPENSATED"
    assert (await run.history()).undone == ["b", "a"]


async def test_the_second_carrier(runs: Runs) -> None:
    carriers = [Effect("x", "boom"), Effect("y")]
    run = await runs.start(Carriers.run, Plan([Effect("pay"), *carriers]))
    assert await run.handle.result() == "ApplicationError"
    assert (await run.history()).undone == ["x", "pickup-x"]
    assert run.book.stands == ["pay", "pickup-y", "y"]


async def test_no_carrier(runs: Runs) -> None:
    carriers = [Effect("x", "boom"), Effect("y", "boom")]
    run = await runs.start(Carriers.run, Plan([Effect("pay"), *carriers]))
    assert causes(await run.failure()) == ["ApplicationError NoCarrier"]
    assert (await run.history()).undone == ["x", "pickup-x", "y", "pickup-y", "pay"]


async def test_a_cancel_after_the_pivot_is_held(runs: Runs) -> None:
    run = await runs.start(Pivots.run, Plan([Effect("a"), Effect("b", "gate"), Effect("c")]))
    await run.reached("b:do")
    await run.handle.cancel()
    await run.event("WORKFLOW_EXECUTION_CANCEL_REQUESTED")
    run.open("b:do")
    assert isinstance(await run.failure(), CancelledError)
    history = await run.history()
    assert history.steps == ["a:do", "b:do", "c:do"]
    assert history.of("ACTIVITY_TASK_CANCEL_REQUESTED") == []
    assert run.book.stands == ["a", "b", "c"]


async def test_a_deadline_of_three_days(time_skipping_env: WorkflowEnvironment, replays: Replays) -> None:
    runs = Runs(time_skipping_env.client, "", WORKFLOWS, replays)
    async with runs.worker() as queue:
        days = 3 * 24 * 3600
        run = await runs.start(Sequence.run, Plan([Effect("a")], "wait", deadline=days), queue=queue)
        assert causes(await run.failure())[0] == "ApplicationError SagaDeadlineExceeded"
    history = await run.history()
    assert history.undone == ["a"]
    took = history.events[-1].event_time.ToDatetime() - history.events[0].event_time.ToDatetime()
    assert 0 <= took.total_seconds() - days < 60
    await runs.close()


async def test_a_deadline_with_a_step_in_flight(runs: Runs) -> None:
    run = await runs.start(Sequence.run, Plan([Effect("a"), Effect("b", "stubborn")], deadline=0.5))
    await run.event("ACTIVITY_TASK_CANCEL_REQUESTED")
    run.open("b:do")
    assert causes(await run.failure())[0] == "ApplicationError SagaDeadlineExceeded"
    assert (await run.history()).undone == ["b", "a"]
    assert run.book.stands == []


# --- activities and converters of all kinds


async def test_each_kind_of_activity(runs: Runs) -> None:
    run = await runs.start(Kinds.run)
    assert causes(await run.failure()) == [BOOM]
    assert (await run.history()).undone == ["chosen", "named", "called", "method", "thread"]
    assert run.book.stands == []


async def test_a_pydantic_converter(client: Client, runs: Runs) -> None:
    config = client.config()
    config["data_converter"] = pydantic_data_converter
    pydantic_client = Client(**config)
    payment = Payment(amount=Decimal("12.50"), count=3, at=datetime(2026, 1, 2, tzinfo=timezone.utc))
    SEEN.clear()
    async with (
        runs.worker(client=pydantic_client, workflows=[Pays], activities=[pay, refund]) as queue,
        Replays([Pays], data_converter=pydantic_data_converter) as replays,
    ):
        own = Runs(pydantic_client, queue, [Pays], replays)
        run = await own.start(Pays.run, Leg(payment=payment))
        assert causes(await run.failure()) == [BOOM]
        await own.close()
    assert [("pay", payment)] * 2 + [("refund", payment)] * 2 == SEEN
