"""Rule 5: once an unwind has begun, nothing interrupts it."""

# ruff: noqa: PT017 (in workflow code, where `pytest.raises` would take an eviction for what it expects)
# ruff: noqa: F821 (groups are of Python 3.11 and later, as are the tests of them)

from __future__ import annotations

import asyncio
import sys

import pytest
from temporalio import workflow
from temporalio.bridge.proto.child_workflow import ChildWorkflowCancellationType as ChildCancellation
from temporalio.bridge.proto.workflow_commands import ActivityCancellationType as Cancellation
from temporalio.exceptions import ApplicationError

from temporal_saga import Compensation, SagaClosed
from tests.driver import (
    Event,
    Run,
    cancel,
    cancelled,
    child_cancelled,
    child_completed,
    child_started,
    completed,
    failed,
    signal,
    timed_out,
    timer,
)
from tests.rules.workflows import DECLINED, OPTIONS, REFUSED, cancels, do, end, flow, new_saga, undone


@flow
async def three() -> None:
    async with new_saga() as saga:
        for name in "abc":
            await do(saga, name)


def test_rule_05_cancel_during_the_unwind() -> None:
    run = Run(three).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(failed("c", DECLINED))
    assert run.activate(cancel()) == []
    run.activate(completed("undo_b"))
    run.activate(completed("undo_a"))
    # Cancellation was not the cause.
    assert end(run) == "ActivityError"
    assert cancels(run) == []
    run.check()


def test_rule_05_cancel_twice() -> None:
    run = Run(three).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(cancel())
    assert run.activate(cancel()) == []
    run.activate(cancelled("c"))
    assert run.activate(cancel()) == []
    for name in ("undo_c", "undo_b", "undo_a"):
        assert run.closed is None
        run.activate(cancel(), completed(name))
    assert undone(run) == ["undo_c", "undo_b", "undo_a"]
    assert cancels(run) == ["c"]
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("at", range(8))
def test_rule_05_cancel_at_every_point(at: int) -> None:
    run = Run(three).autopilot({"c:do": REFUSED}, cancel_at=[at])
    assert undone(run) == [f"undo_{name}" for name in reversed("abc") if name in run.history]
    assert end(run) == ("Cancelled" if at < 4 else "ActivityError")
    run.check()


@pytest.mark.parametrize("first", range(0, 8, 2))
@pytest.mark.parametrize("second", range(1, 9, 2))
def test_rule_05_cancel_at_two_points(first: int, second: int) -> None:
    run = Run(three).autopilot({"c:do": REFUSED}, cancel_at=[first, second])
    assert undone(run) == [f"undo_{name}" for name in reversed("abc") if name in run.history]
    run.check()


def test_rule_05_a_scope_that_is_cancelled_again_and_again() -> None:
    async def inner() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await do(saga, "b")
            raise REFUSED

    @flow
    async def body() -> str:
        task = asyncio.create_task(inner())
        workflow.set_signal_handler("stop", lambda: task.cancel() and None)
        try:
            await task
        except ApplicationError as error:
            return str(error.type)
        except asyncio.CancelledError:
            return "cancelled"
        return ""

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    assert run.activate(signal("stop")) == []
    run.activate(signal("stop"), completed("undo_b"))
    assert run.names == ["undo_a"]
    run.activate(signal("stop"), signal("stop"))
    run.activate(completed("undo_a"))
    assert undone(run) == ["undo_b", "undo_a"]
    assert run.result == "Refused"
    run.check()


def test_rule_05_wait_for_that_expires_during_the_unwind() -> None:
    async def inner() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            raise REFUSED

    @flow
    async def body() -> str:
        try:
            await asyncio.wait_for(inner(), 5)
        except (ApplicationError, asyncio.TimeoutError) as error:
            return type(error).__name__
        return ""

    run = Run(body).start()
    run.activate(completed("a"))
    assert run.activate(timer()) == []
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    # wait_for tells of its timeout before Python 3.12, and lets the error through from then on.
    assert run.result in ("ApplicationError", "TimeoutError")
    run.check()


if sys.version_info >= (3, 11):

    def test_rule_05_a_task_group_that_cancels_during_the_unwind() -> None:
        async def inner() -> None:
            async with new_saga() as saga:
                await do(saga, "a")
                raise REFUSED

        @flow
        async def body() -> str:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(inner())
                    await workflow.execute_activity("plain", **OPTIONS)
            except BaseExceptionGroup as error:
                return str(sorted(type(leaf).__name__ for leaf in error.exceptions))
            return ""

        run = Run(body).start()
        run.activate(completed("a"))
        assert sorted(run.names) == ["plain", "undo_a"]
        run.activate(failed("plain", REFUSED))
        assert run.names == ["undo_a"]
        assert not run.activity("undo_a").cancel_requested
        run.activate(completed("undo_a"))
        assert run.result == "['ActivityError', 'ApplicationError']"
        run.check()


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (completed("a"), "APPLIED"),
        (cancelled("a"), "UNKNOWN"),
        (failed("a", REFUSED), "UNKNOWN"),
        (timed_out("a"), "UNKNOWN"),
        (failed("a", DECLINED), "NOT_APPLIED"),
    ],
    ids=["completed", "cancelled", "failed", "timed out", "declined"],
)
def test_rule_05_a_cancelled_step_raises_cancelled_whatever_became_of_it(event: Event, expected: str) -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            try:
                await do(saga, "a")
            except BaseException as error:
                assert type(error) is asyncio.CancelledError, error
                (step,) = saga.report().steps
                assert step.state == expected, step
                raise

    run = Run(body).start()
    run.activate(cancel())
    run.activate(event)
    run.autopilot({})
    assert undone(run) == ([] if expected == "NOT_APPLIED" else ["undo_a"])
    assert end(run) == "Cancelled"
    run.check()


def test_rule_05_wait_for_around_a_step_that_completes_although_cancelled() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            try:
                return str(await asyncio.wait_for(do(saga, "a"), 5))
            except asyncio.TimeoutError:
                await do(saga, "b")
        return "another way"

    run = Run(body).start()
    run.activate(timer())
    run.activate(completed("a", "too late"))
    assert run.names == ["b"]
    run.activate(completed("b"))
    run.autopilot({})
    assert run.history == ["a", "b", "undo_a"]
    assert run.result == "another way"
    run.check()


def test_rule_05_a_savepoint_raises_the_cancel_that_came_during_its_unwind() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            try:
                async with saga.savepoint() as attempt:
                    await do(attempt, "b")
                    raise REFUSED
            except ApplicationError:
                await do(saga, "another_way")

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(cancel())
    run.activate(completed("undo_b"))
    run.autopilot({})
    assert run.history == ["a", "b", "undo_b", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_05_a_cancel_is_delivered_after_the_outermost_saga() -> None:
    @flow
    async def body() -> None:
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                raise REFUSED
        except ApplicationError as error:
            assert error is REFUSED
            await asyncio.sleep(60)
            await workflow.execute_activity("not_reached", **OPTIONS)

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("undo_a"))
    assert run.history == ["a", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_05_a_cancel_is_delivered_once() -> None:
    @flow
    async def body() -> str:
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                raise REFUSED
        except ApplicationError:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(1)
                return "cleaned up"
        return "not reached"

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("undo_a"))
    run.autopilot({})
    assert run.result == "cleaned up"
    run.check()


def test_rule_05_no_cancel_is_made_up() -> None:
    @flow
    async def body() -> str:
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                raise REFUSED
        except ApplicationError:
            await asyncio.sleep(60)
        return "slept"

    run = Run(body).autopilot({})
    assert run.result == "slept"
    run.check()


def test_rule_05_a_cancel_that_the_body_swallows_is_swallowed() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return str(await do(saga, "b"))
        return ""

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("b", "kept"))
    assert run.history == ["a", "b"]
    assert run.result == "kept"
    run.check()


def test_rule_05_the_original_error_stays_when_a_cancel_meets_an_incomplete_unwind() -> None:
    run = Run(three).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(cancelled("b"))
    run.activate(failed("undo_b", REFUSED))
    run.activate(completed("undo_a"))
    assert end(run) == "CompensationError"
    run.check()


def test_rule_05_steps_wait_for_the_end_of_their_cancellation() -> None:
    @flow
    async def body() -> None:
        kinds = workflow.ActivityCancellationType
        async with new_saga() as saga:
            await do(saga, "a")
            await do(saga, "b", cancellation_type=kinds.TRY_CANCEL)
            await saga.execute_child_workflow("Child", compensation="undo_child")

    run = Run(body).autopilot({})
    assert [activity.command.cancellation_type for activity in run.scheduled] == [
        Cancellation.WAIT_CANCELLATION_COMPLETED,
        Cancellation.TRY_CANCEL,
    ]
    (start,) = [
        command.start_child_workflow_execution
        for activation in run.activations
        for command in activation.protos
        if command.HasField("start_child_workflow_execution")
    ]
    assert start.cancellation_type == ChildCancellation.WAIT_CANCELLATION_COMPLETED
    run.check()


def test_rule_05_a_step_that_the_user_set_to_try_cancel() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await do(saga, "b", cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL)

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


@flow
async def child_step() -> None:
    async with new_saga() as saga:
        await do(saga, "a")
        await saga.execute_child_workflow("Child", 1, compensation="undo_child")


def test_rule_05_cancel_while_a_child_starts() -> None:
    run = Run(child_step).start()
    run.activate(completed("a"))
    assert run.activate(cancel()) == []
    assert run.names == []
    ((_, child_id, _, _),) = [command for command in run.commands if command[0] == "start_child"]
    assert run.activate(child_started("Child")) == [("cancel_child", child_id)]
    run.activate(child_cancelled("Child"))
    run.autopilot({})
    assert undone(run) == ["undo_child", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_05_cancel_while_a_child_runs() -> None:
    run = Run(child_step).start()
    run.activate(completed("a"))
    run.activate(child_started("Child"))
    (command,) = run.activate(cancel())
    assert command[0] == "cancel_child"
    assert run.activate(cancel()) == []
    run.activate(child_completed("Child", 1))
    run.autopilot({})
    assert undone(run) == ["undo_child", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_05_a_child_undo_outlives_every_cancel() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await do(saga, "b", compensation=Compensation.child_workflow("UndoB"))
            await asyncio.sleep(60)

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(cancel())
    assert [child.name for child in run.children] == ["UndoB"]
    run.activate(cancel())
    run.activate(child_started("UndoB"))
    run.activate(cancel())
    run.activate(child_completed("UndoB"))
    run.autopilot({})
    assert undone(run) == ["undo_a"]
    assert cancels(run) == []
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("single_batch", [False, True])
@pytest.mark.parametrize("first", ["cancel", "undo"])
def test_rule_05_a_cancel_with_the_end_of_the_last_undo(first: str, single_batch: bool) -> None:
    run = Run(three, single_batch=single_batch).start()
    run.activate(completed("a"))
    run.activate(failed("b", DECLINED))
    events = [cancel(), completed("undo_a")]
    run.activate(*(events if first == "cancel" else reversed(events)))
    assert undone(run) == ["undo_a"]
    assert end(run) == "ActivityError"
    run.check()


@pytest.mark.parametrize("single_batch", [False, True])
@pytest.mark.parametrize("first", ["cancel", "failure"])
def test_rule_05_a_cancel_with_a_failure(first: str, single_batch: bool) -> None:
    run = Run(three, single_batch=single_batch).start()
    run.activate(completed("a"))
    events = [cancel(), failed("b", REFUSED)]
    run.activate(*(events if first == "cancel" else reversed(events)))
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) in ("Cancelled", "ActivityError")
    run.check()


def test_rule_05_a_callback_runs_to_its_end() -> None:
    async def callback() -> None:
        await asyncio.sleep(1)
        await workflow.execute_activity("undo_by_hand", **OPTIONS)
        await asyncio.sleep(1)
        await workflow.execute_activity("undo_more", **OPTIONS)

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.add_callback(callback)
            await asyncio.sleep(60)

    run = Run(body).start()
    run.activate(completed("a"))
    for event in (cancel(), cancel(), timer(), cancel(), completed("undo_by_hand"), cancel(), timer()):
        run.activate(event)
    run.activate(completed("undo_more"))
    run.activate(completed("undo_a"))
    assert run.history == ["a", "undo_by_hand", "undo_more", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_08_a_step_after_the_end_is_misuse_for_code_that_swallowed_the_cancel() -> None:
    @flow
    async def body() -> str:
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            try:
                await do(saga, "b")
            except SagaClosed:
                return "closed"
        return ""

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("undo_a"))
    assert run.history == ["a", "undo_a"]
    assert run.task_failure is not None
    assert "indent the line" in run.task_failure[2]


def test_rule_05_a_cancel_is_no_failure_to_catch_around_a_savepoint_whose_undo_failed() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            try:
                async with saga.savepoint() as attempt:
                    await do(attempt, "b")
                    await asyncio.sleep(60)
            except ApplicationError:
                await do(saga, "another_way")

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(cancel())
    run.activate(failed("undo_b", REFUSED))
    run.autopilot({})
    assert run.history == ["a", "b", "undo_b", "undo_a"]
    # The report of what stands goes on, and not the bare cancel.
    assert end(run) == "CompensationError"
    run.check()
