"""What must hold when tasks, savepoints, timers, cancels and bugs meet at the worst moment."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import sys
import weakref
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import CompensationError, Saga, SagaState
from tests.driver import HANG, Run, cancel, cancelled, completed, failed, signal, timer, update
from tests.rules.workflows import REFUSED, SECOND, cancels, do, end, flow, new_saga, shared, undone

pytestmark = pytest.mark.usefixtures("collected")

Misuse = Callable[[Saga], Coroutine[Any, Any, None]]

BRANCH = shared(ApplicationError("in the branch", type="Branch", non_retryable=True))


def background(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Return a task that nobody awaits; asyncio need not log its error, which would count as noise in a replay."""
    task = asyncio.create_task(coroutine)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def in_gather(step: Coroutine[Any, Any, Any]) -> None:
    await asyncio.gather(step)


async def in_wait_for(step: Coroutine[Any, Any, Any]) -> None:
    await asyncio.wait_for(step, 600)


CHILD_TASKS: dict[str, Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, None]]] = {
    "gather": in_gather,
    "wait_for": in_wait_for,
}

if sys.version_info >= (3, 11):

    async def in_task_group(step: Coroutine[Any, Any, Any]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(step)

    CHILD_TASKS["task group"] = in_task_group


# --- savepoints in other tasks ---


def test_rule_06_nested_savepoints_open_in_another_task_are_undone_with_the_whole() -> None:
    """Every effect that may exist is undone, newest first: those of a savepoint in a savepoint too."""

    @flow
    async def body() -> None:
        async def branch(saga: Saga) -> None:
            async with saga.savepoint() as outer:
                await do(outer, "a")
                async with outer.savepoint() as inner:
                    await do(inner, "b")
                    await asyncio.sleep(1000)

        async with new_saga() as saga:
            background(branch(saga))
            await asyncio.sleep(10)
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(timer())
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "Refused"
    run.check()


def test_rule_06_the_owner_of_an_unwinding_savepoint_is_cancelled_while_the_whole_drains() -> None:
    """Nothing interrupts an unwind, and its entries are undone once, whoever waits for it and is cancelled."""
    seen: list[str] = []

    @flow
    async def body() -> None:
        async def branch(saga: Saga) -> None:
            try:
                async with saga.savepoint() as attempt:
                    await do(attempt, "a")
                    raise BRANCH
            except BaseException as error:
                seen.append(type(error).__name__)
                raise

        async with new_saga() as saga:
            branching = background(branch(saga))
            await do(saga, "m")
            asyncio.get_running_loop().call_later(5, branching.cancel)
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("m"))
    assert run.names == ["undo_a"]
    run.activate(timer())
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    assert run.names == ["undo_m"]
    run.activate(completed("undo_m"))
    assert seen == ["CancelledError"]
    assert end(run) == "Refused"
    run.check()


@pytest.mark.parametrize("turns", range(10))
def test_rule_06_a_savepoint_that_ends_well_is_cancelled_as_the_whole_takes_it_over(turns: int) -> None:
    """What a savepoint did is undone once, in whichever turn of the loop its task is cancelled."""

    @flow
    async def body() -> None:
        async def branch(saga: Saga) -> None:
            async with saga.savepoint() as attempt:
                await do(attempt, "a")
                background(do(attempt, "b"))
                await asyncio.sleep(0)

        async def cancel_in_turn(task: asyncio.Task[Any]) -> None:
            await asyncio.sleep(20)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()

        async with new_saga() as saga:
            background(cancel_in_turn(background(branch(saga))))
            await asyncio.sleep(10)
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(timer())
    assert cancels(run) == ["b"]
    run.activate(cancelled("b"), timer())
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "Refused"
    run.check()


@pytest.mark.parametrize("wait", [0, 50], ids=["before the whole unwinds", "while the whole unwinds"])
def test_rule_06_a_callback_of_a_savepoint_that_calls_a_step_of_the_whole_is_misuse(wait: int) -> None:
    """Code that an unwind runs may not call a step of that saga, be it unwinding yet or not: no deadlock."""

    @flow
    async def body() -> None:
        async def callback(saga: Saga) -> None:
            if wait:
                await asyncio.sleep(wait)
            await do(saga, "never")

        async def branch(saga: Saga) -> None:
            async with saga.savepoint() as attempt:
                attempt.add_callback(callback, saga)
                raise BRANCH

        async with new_saga() as saga:
            background(branch(saga))
            await asyncio.sleep(10)
            raise REFUSED

    run = Run(body).start()
    while run.task_failure is None:
        run.activate(timer())
    assert end(run) == "task: RuntimeError"
    assert "callback" in run.commands[-1][2]
    assert run.history == []
    run.check()


def test_rule_04_a_bug_in_the_unwind_of_a_savepoint_that_nobody_watches_fails_the_task() -> None:
    """A bug fails the workflow task; no compensation is skipped without a word."""

    @flow
    async def body() -> None:
        async def callback() -> None:
            await asyncio.sleep(20)
            raise TypeError("a bug")

        async def branch(saga: Saga) -> None:
            async with saga.savepoint() as attempt:
                await do(attempt, "a")
                attempt.add_callback(callback)
                raise BRANCH

        async with new_saga() as saga:
            background(branch(saga))
            await asyncio.sleep(10)
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    run.autopilot({})
    assert end(run) == "task: TypeError"
    assert undone(run) == []
    run.check()


# --- misuse that nobody sees ---


@pytest.mark.parametrize("after", ["a failure", "compensate()"])
def test_rule_08_a_registration_that_is_misuse_is_not_lost_with_its_task(after: str) -> None:
    """Misuse fails the workflow task, although the task it was raised in goes unseen and the scope ends badly."""

    @flow
    async def body() -> None:
        async def branch(saga: Saga) -> None:
            await asyncio.sleep(10)
            saga.add_compensation("undo_x", 2)

        async with new_saga() as saga:
            saga.add_compensation("undo_x", 1)
            background(branch(saga))
            if after == "compensate()":
                await asyncio.sleep(20)
                await saga.compensate()
            raise REFUSED

    run = Run(body).start()
    if after == "compensate()":
        run.activate(timer())
    run.activate(timer())
    run.autopilot({})
    assert end(run) == "task: RuntimeError"
    assert "key=" in run.commands[-1][2]
    run.check()


async def misuse_in_a_task(saga: Saga) -> None:
    async def task() -> None:
        await do(saga, "a")

    background(task())
    await asyncio.sleep(1)


async def misuse_of_the_pivot(saga: Saga) -> None:
    background(do(saga, "b"))
    await asyncio.sleep(1)
    saga.pivot()


async def continues_as_new(saga: Saga) -> None:
    workflow.continue_as_new()


async def savepoint_not_entered(saga: Saga) -> None:
    await do(saga.savepoint(), "b")


MISUSES = [misuse_in_a_task, misuse_of_the_pivot, continues_as_new, savepoint_not_entered]


@pytest.mark.parametrize("misuse", MISUSES)
def test_rule_08_misuse_that_someone_catches_fails_the_task_all_the_same(misuse: Misuse) -> None:
    """Misuse fails the workflow task, whatever catches it outside the scope: its effects do not stand silently."""

    @flow
    async def body() -> str:
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                await misuse(saga)
        except Exception:
            return "swallowed"
        return "not noticed"

    run = Run(body).start()
    run.activate(completed("a"))
    if run.task_failure is None:
        run.activate(timer())
    assert end(run) == "task: RuntimeError"
    assert undone(run) == []
    run.check()


@pytest.mark.parametrize("misuse", MISUSES)
def test_rule_04_misuse_that_the_worker_calls_a_failure_unwinds(misuse: Misuse) -> None:
    """What fails the workflow unwinds, misuse too where the worker says that any exception does."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await misuse(saga)

    run = Run(body, failure_exception_types=[Exception]).autopilot({"b:do": HANG})
    assert undone(run) == (["undo_b", "undo_a"] if misuse is misuse_of_the_pivot else ["undo_a"])
    assert end(run) == "RuntimeError"
    run.check()


# --- continue-as-new ---


@pytest.mark.parametrize("unwinding", [False, True], ids=["open", "unwinding"])
def test_rule_04_continue_as_new_over_a_savepoint_in_another_task_is_misuse(unwinding: bool) -> None:
    """continue_as_new in a scope that holds compensations is misuse, wherever in the scope these are."""

    @flow
    async def body() -> None:
        async def branch(saga: Saga) -> None:
            async with saga.savepoint() as attempt:
                await do(attempt, "a")
                if unwinding:
                    raise BRANCH
                await asyncio.sleep(1000)

        async with new_saga() as saga:
            background(branch(saga))
            await asyncio.sleep(10)
            workflow.continue_as_new()

    run = Run(body).start()
    run.activate(completed("a"))
    assert run.names == (["undo_a"] if unwinding else [])
    run.activate(timer())
    assert end(run) == "task: RuntimeError"
    run.check()


def test_rule_04_continue_as_new_in_a_callback_is_misuse() -> None:
    """Nothing interrupts an unwind: continue_as_new in a callback would drop the rest of it."""

    @flow
    async def body() -> None:
        async def callback() -> None:
            workflow.continue_as_new()

        async with new_saga() as saga:
            await do(saga, "a")
            saga.add_callback(callback)
            raise REFUSED

    run = Run(body).autopilot({})
    assert end(run) == "task: RuntimeError"
    assert "continue_as_new" in run.commands[-1][2]
    assert run.history == ["a"]
    run.check()


def test_rule_02_continue_as_new_in_a_callback_fails_its_undo_alone_if_misuse_fails_the_workflow() -> None:
    """The same where a `RuntimeError` is a failure: then that undo has failed, and the others run."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.add_callback(workflow.continue_as_new)
            raise REFUSED

    run = Run(body, failure_exception_types=[RuntimeError]).autopilot({})
    assert end(run) == "CompensationError"
    assert run.history == ["a", "undo_a"]
    run.check()


# --- cancels, kept and delivered ---


def test_rule_05_compensate_that_was_incomplete_delivers_the_cancel_afterwards() -> None:
    """A cancel that arrives during an unwind is kept, should the CompensationError be caught."""

    @flow
    async def body() -> str:
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                await saga.compensate()
        except CompensationError:
            await asyncio.sleep(60)
        return "not reached"

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(failed("undo_a", REFUSED))
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("scope", ["saga", "savepoint"])
def test_rule_05_a_cancel_is_delivered_after_a_good_end_whose_undo_failed(scope: str) -> None:
    """A cancel that arrives while a swallowed step is undone is kept, although that undo fails for good."""

    @flow
    async def body() -> str:
        async with new_saga("outer") as outer:
            try:
                async with outer.savepoint() if scope == "savepoint" else new_saga("inner") as saga:
                    with contextlib.suppress(ActivityError):
                        await do(saga, "a")
            except CompensationError:
                await asyncio.sleep(60)
        return "not reached"

    run = Run(body).start()
    run.activate(failed("a", REFUSED))
    assert run.names == ["undo_a"]
    run.activate(cancel())
    run.activate(failed("undo_a", REFUSED))
    # What stands of a savepoint is told again at the end of the whole.
    assert end(run) == ("CompensationError" if scope == "savepoint" else "Cancelled")
    run.check()


def test_rule_05_a_cancel_during_the_inner_unwind_is_delivered_after_the_outermost_saga() -> None:
    """After the outermost saga the workflow's cancel is delivered, the one kept by a saga inside too."""

    @flow
    async def body() -> str:
        try:
            async with new_saga("outer") as outer:
                await do(outer, "a")
                async with new_saga("inner") as inner:
                    await do(inner, "b")
                    raise REFUSED
        except ApplicationError:
            await asyncio.sleep(60)
        return "not reached"

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(cancel())
    run.activate(completed("undo_b"))
    run.activate(completed("undo_a"))
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("single_batch", [False, True])
@pytest.mark.parametrize("first", ["cancel", "signal"])
def test_rule_05_a_cancel_with_the_signal_that_makes_the_body_fail(first: str, single_batch: bool) -> None:
    """A cancel that arrives with what makes the scope fail is delivered, before the unwind or after it."""

    @flow
    async def body() -> str:
        told: list[None] = []
        workflow.set_signal_handler("tell", lambda: told.append(None))
        try:
            async with new_saga() as saga:
                saga.add_compensation("undo_a")
                await workflow.wait_condition(lambda: bool(told))
                raise REFUSED
        except ApplicationError:
            await asyncio.sleep(60)
        return "not reached"

    run = Run(body, single_batch=single_batch).start()
    events = [cancel(), signal("tell")]
    run.activate(*(events if first == "cancel" else reversed(events)))
    run.activate(completed("undo_a"))
    assert undone(run) == ["undo_a"]
    assert end(run) == "Cancelled"
    run.replay()  # in the other batch mode the body sees the two in another order


if sys.version_info >= (3, 11):

    @pytest.mark.parametrize("single_batch", [False, True])
    @pytest.mark.parametrize("turns", range(8))
    def test_rule_05_a_cancel_that_reaches_its_task_some_turns_later_is_delivered(
        turns: int, single_batch: bool
    ) -> None:
        """The workflow's cancel takes turns of the loop to reach a task of a task group: it is not lost on the way."""

        @flow
        async def body() -> None:
            async def leaf() -> None:
                await asyncio.sleep(10)
                for _ in range(turns):
                    await asyncio.sleep(0)
                try:
                    async with new_saga() as saga:
                        saga.add_compensation("undo_a")
                        raise REFUSED
                except ApplicationError:
                    await asyncio.sleep(5000)

            await in_task_group(in_task_group(leaf()))

        run = Run(body, single_batch=single_batch).start()
        run.activate(timer(), cancel())
        if run.closed is None:
            run.activate(completed("undo_a"))
        assert end(run) == "Cancelled"
        run.check()

    def test_rule_05_a_cancel_that_was_caught_long_ago_is_not_delivered_again() -> None:
        """The workflow's cancel is delivered if it came during the unwind; a timeout that did is none."""

        @flow
        async def body() -> str:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)
            try:
                async with asyncio.timeout(5):
                    async with new_saga() as saga:
                        await do(saga, "a")
                        raise REFUSED
            except ApplicationError:
                await asyncio.sleep(1)
            return "slept"

        run = Run(body).start()
        run.activate(cancel())
        run.activate(completed("a"))
        run.activate(timer())
        run.activate(completed("undo_a"))
        run.autopilot({})
        assert run.result == "slept"
        run.check()


def test_rule_02_a_savepoint_that_was_incomplete_is_the_whole_sagas_whoever_caught_its_error() -> None:
    """An undo that failed for good in a savepoint makes the saga end badly, and incomplete: all in reverse order."""

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "keep")
            with contextlib.suppress(CompensationError):
                async with saga.savepoint() as attempt:
                    await do(attempt, "a")
            with contextlib.suppress(ActivityError):
                await do(saga, "card1")
            await do(saga, "card2")
        return "paid"

    run = Run(body).autopilot({"a:do": REFUSED, "undo_a": REFUSED, "card1:do": REFUSED})
    assert undone(run) == ["undo_a", "undo_card2", "undo_card1", "undo_keep"]
    assert end(run) == "CompensationError"
    run.check()


# --- pivot ---


@pytest.mark.parametrize("scope", ["saga", "savepoint"])
@pytest.mark.parametrize("how", CHILD_TASKS)
def test_pivot_a_cancel_undoes_nothing_of_a_child_task(how: str, scope: str) -> None:
    """The workflow's cancel does not undo what was done after the pivot, in whichever task that was done."""

    @flow
    async def body() -> None:
        async def steps(saga: Saga) -> None:
            await do(saga, "b", key="1")
            if scope == "savepoint":
                await do(saga, "c", key="1")

        async def branch(saga: Saga) -> None:
            if scope == "saga":
                return await steps(saga)
            async with saga.savepoint() as attempt:
                return await steps(attempt)

        async with new_saga() as saga:
            await do(saga, "a")
            saga.pivot()
            await CHILD_TASKS[how](branch(saga))

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    assert cancels(run) == []
    run.activate(completed("b"))
    if run.closed is None:
        run.activate(completed("c"))
    assert undone(run) == []
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("when", ["before it fails", "while it unwinds"])
def test_pivot_a_savepoint_that_fails_under_a_held_cancel_lets_another_way_be_tried(when: str) -> None:
    """From the pivot on the workflow's cancel is held until the scope ends, through a savepoint's failure too."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            saga.pivot()
            try:
                async with saga.savepoint() as attempt:
                    await do(attempt, "a")
            except ActivityError:
                async with saga.savepoint() as attempt:
                    await do(attempt, "b")

    run = Run(body).start()
    if when == "before it fails":
        run.activate(cancel())
    run.activate(failed("a", REFUSED))
    if when == "while it unwinds":
        run.activate(cancel())
    run.activate(completed("undo_a"))
    assert run.names == ["b"]
    run.activate(completed("b"))
    assert undone(run) == ["undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_pivot_a_held_cancel_outlives_the_error_of_an_incomplete_savepoint() -> None:
    """From the pivot on the workflow's cancel is held until the scope ends, and does not hide that it is incomplete."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.pivot()
            with contextlib.suppress(CompensationError):
                async with saga.savepoint() as attempt:
                    await do(attempt, "b")
                    raise REFUSED
            await do(saga, "c")

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("b"))
    run.activate(failed("undo_b", REFUSED))
    run.activate(completed("c"))
    run.activate(completed("undo_c"))
    assert undone(run) == ["undo_b", "undo_c"]
    assert end(run) == "CompensationError"
    run.check()


@pytest.mark.parametrize("how", ["compensate()", "detach()"])
def test_pivot_a_held_cancel_is_delivered_after(how: str) -> None:
    """A held cancel is raised when the scope ends, by hand too."""

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            saga.pivot()
            await do(saga, "a")
            if how == "compensate()":
                await saga.compensate()
            else:
                saga.detach()
        await asyncio.sleep(60)
        return "not reached"

    run = Run(body).start()
    run.activate(cancel())
    run.activate(completed("a"))
    if how == "compensate()":
        run.activate(completed("undo_a"))
    assert undone(run) == (["undo_a"] if how == "compensate()" else [])
    assert end(run) == "Cancelled"
    run.check()


def test_pivot_after_a_deadline_that_the_body_swallowed_keeps_what_follows() -> None:
    """At the pivot the deadline stops, one that has passed and was swallowed too."""

    @flow
    async def body() -> str:
        async with new_saga(deadline=5 * SECOND) as saga:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)
            saga.pivot()
            await do(saga, "after")
        return "done"

    run = Run(body).start()
    run.advance(6 * SECOND)
    run.activate(completed("after"))
    assert undone(run) == []
    assert run.result == "done"
    run.check()


@pytest.mark.parametrize("first", ["body", "deadline"])
@pytest.mark.parametrize("turns", range(6))
def test_pivot_a_deadline_that_passed_in_its_activation_undoes_all_that_came_before(turns: int, first: str) -> None:
    """When the deadline passes, the body is cancelled: it never gets to a pivot some turns of the loop later."""

    @flow
    async def body() -> str:
        async def branch(saga: Saga) -> None:
            async with saga.savepoint() as attempt:
                await do(attempt, "a")
                await asyncio.sleep(9 if first == "body" else 10)
                for _ in range(turns):
                    await asyncio.sleep(0)
                attempt.pivot()
                await do(attempt, "b")

        async with new_saga(deadline=timedelta(seconds=10)) as saga:
            await asyncio.create_task(branch(saga))
        return "done"

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(timer(), timer())
    run.autopilot({})
    assert run.history == ["a", "undo_a"]
    assert end(run) == "SagaDeadlineExceeded"
    run.check()


def test_pivot_single_batch_a_cancel_while_a_good_end_waits_for_a_savepoint_in_a_task() -> None:
    """What was done after the pivot is kept, also when a cancel comes with a result, in the SDK's single batch."""

    @flow
    async def body() -> None:
        async def branch(saga: Saga) -> None:
            async with saga.savepoint() as attempt:
                background(do(attempt, "b"))
                await asyncio.sleep(0)

        async with new_saga() as saga:
            saga.pivot()
            background(branch(saga))
            await asyncio.sleep(0)
            await do(saga, "a")

    run = Run(body, single_batch=True).start()
    assert sorted(run.names) == ["a", "b"]
    run.activate(completed("b"), cancel())
    run.activate(completed("a"))
    assert undone(run) == []
    assert end(run) == "Cancelled"
    run.check()


if sys.version_info >= (3, 11):

    async def in_timeout(step: Coroutine[Any, Any, Any]) -> None:
        async with asyncio.timeout(10):
            await step

    def test_pivot_a_timeout_after_a_held_cancel_is_told_from_it() -> None:
        """A timeout around a step lets it run to its end, then raises: swallowed, that step is undone (rule 7)."""

        @flow
        async def body() -> None:
            async with new_saga() as saga:
                saga.pivot()
                await do(saga, "a")
                with contextlib.suppress(asyncio.TimeoutError):
                    await in_timeout(do(saga, "b"))
                await do(saga, "c")

        run = Run(body).start()
        run.activate(cancel())
        run.activate(completed("a"))
        run.activate(timer())
        assert cancels(run) == []
        run.activate(completed("b"))
        run.activate(completed("c"))
        run.autopilot({})
        assert run.history == ["a", "b", "c", "undo_b"]
        assert end(run) == "Cancelled"
        run.check()

    @pytest.mark.parametrize("where", ["a resumed saga", "an update's saga"])
    @pytest.mark.filterwarnings("ignore:.*TMPRL1102")
    def test_pivot_a_cancel_that_was_caught_long_ago_is_no_timeout(where: str) -> None:
        """A timeout past the pivot raises TimeoutError, though the workflow was cancelled once and caught it."""

        async def steps(state: SagaState | None) -> str:
            async with new_saga(state=state) as saga:
                if state is None:
                    saga.pivot()
                try:
                    await in_timeout(do(saga, "a"))
                except asyncio.TimeoutError:
                    return "timed out"
            return "no timeout"

        @flow
        async def body() -> str:
            async def detached() -> SagaState:
                async with new_saga() as saga:
                    saga.pivot()
                    return saga.detach()

            workflow.set_update_handler("work", steps)
            state = await detached() if where == "a resumed saga" else None
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)
            if where == "a resumed saga":
                return await steps(state)
            await workflow.wait_condition(workflow.all_handlers_finished)
            return "main is done"

        run = Run(body).start()
        if where == "an update's saga":
            run.activate(update("work", None))
        run.activate(cancel())
        run.activate(timer())
        run.activate(completed("a"))
        run.activate(completed("undo_a"))
        if where == "a resumed saga":
            assert run.result == "timed out"
        else:
            assert ("update_completed", "work", "timed out") in run.commands
            assert run.result == "main is done"
        run.check()


# --- deadline ---


def outer_deadline(sleep: int) -> type[Any]:
    """Return a workflow in which a deadline of 5 s passes while a saga inside is unwinding."""

    @flow
    async def body() -> str:
        async with new_saga("outer", deadline=5 * SECOND) as outer:
            await do(outer, "a")
            with contextlib.suppress(ApplicationError):
                async with new_saga("inner") as inner:
                    await do(inner, "b")
                    raise REFUSED
            await asyncio.sleep(sleep)
        return "not reached"

    return body


def test_deadline_that_passes_while_a_saga_inside_unwinds_ends_the_body_after_it() -> None:
    """When the deadline passes the scope's body is cancelled: after the unwind in hand, and not at the scope's exit."""
    run = Run(outer_deadline(1000)).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(timer())
    assert run.names == ["undo_b"]
    assert cancels(run) == []
    run.activate(completed("undo_b"))
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    assert end(run) == "SagaDeadlineExceeded"
    run.check()


if sys.version_info >= (3, 11):

    def test_deadline_that_came_late_leaves_no_cancel_with_a_timeout_around_it() -> None:
        """The deadline's cancel is rescinded once unwound, with `uncancel()`: a timeout around it still is one."""

        @flow
        async def body() -> list[Any]:
            cancelling = -1
            try:
                async with asyncio.timeout(1000):
                    with contextlib.suppress(ApplicationError):
                        async with new_saga("outer", deadline=5 * SECOND):
                            with contextlib.suppress(ApplicationError):
                                async with new_saga("inner") as inner:
                                    await do(inner, "b")
                                    raise REFUSED
                            await asyncio.sleep(2000)
                    task = asyncio.current_task()
                    assert task is not None
                    cancelling = task.cancelling()
                    await asyncio.sleep(5000)
            except asyncio.TimeoutError:
                return ["timed out", cancelling]
            return ["not reached"]

        run = Run(body).start()
        run.activate(completed("b"))
        run.activate(timer())
        run.activate(completed("undo_b"))
        run.autopilot({})
        assert run.result == ["timed out", 0]
        run.check()


# --- nothing leaks, nothing stays ---

SECRET = "4111-1111"


@pytest.mark.parametrize("what", ["a partial", "a choice with a bug"])
def test_rule_11_the_failure_of_a_task_does_not_show_arguments_or_results(what: str) -> None:
    """Names, keys and states are told, never arguments, results or error details."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            if what == "a partial":
                await saga.execute_activity(functools.partial(print, SECRET))
            else:
                await do(saga, "a", compensation_from=lambda outcome: {}[outcome.result])

    run = Run(body).autopilot({"a": SECRET})
    assert run.task_failure is not None
    assert SECRET not in str(run.task_failure)
    run.check()


@dataclasses.dataclass
class Receipt:
    number: str


@pytest.mark.parametrize("on_failure", ["raise", "park"])
def test_rule_11_a_step_does_not_keep_its_result(on_failure: Any) -> None:
    """A record has the outcome and not the result, which would stay as long as the run lives."""
    receipts: list[weakref.ref[Receipt]] = []

    @flow
    async def body() -> None:
        async with new_saga(on_step_failure=on_failure) as saga:
            receipts.append(weakref.ref(await do(saga, "a", result_type=Receipt)))
            await do(saga, "b")

    run = Run(body).start()
    run.activate(completed("a", {"number": "1"}))
    gc.collect()
    assert receipts[0]() is None
    run.activate(completed("b"))
    assert end(run) == "None"
    run.check()
