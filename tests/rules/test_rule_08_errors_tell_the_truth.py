"""Rule 8: the original error goes on, or an error that says what was not undone; misuse fails the task."""

# ruff: noqa: PT017 (in workflow code, where `pytest.raises` would take an eviction for what it expects)
# ruff: noqa: F821 (groups are of Python 3.11 and later, as are the tests of them)

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

from temporal_saga import Compensation, CompensationError, Saga, SagaClosed, SagaDeadlineExceeded, SagaReport
from tests.driver import Run, cancel, completed, failed, timer, update
from tests.rules.workflows import DECLINED, OPTIONS, REFUSED, SECOND, do, end, flow, new_saga, undone

pytestmark = pytest.mark.usefixtures("collected")


def test_rule_08_the_same_object_its_cause_untouched() -> None:
    cause = KeyError("cause")
    original = ApplicationError("original")
    original.__cause__ = cause

    @flow
    async def body() -> str:
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                raise original
        except ApplicationError as error:
            assert error is original
            assert error.__cause__ is cause
            assert error.__context__ is None
            return "the same"
        return ""

    run = Run(body).autopilot({})
    assert undone(run) == ["undo_a"]
    assert run.result == "the same"
    run.check()


def test_rule_08_the_error_of_a_step() -> None:
    @flow
    async def body() -> str:
        seen: list[BaseException] = []
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                try:
                    await do(saga, "b")
                except ActivityError as error:
                    seen.append(error)
                    raise
        except ActivityError as error:
            assert error is seen[0]
            assert isinstance(error.cause, ApplicationError)
            return str(error.cause.type)
        return ""

    run = Run(body).autopilot({"b:do": REFUSED})
    assert undone(run) == ["undo_b", "undo_a"]
    assert run.result == "Refused"
    run.check()


@pytest.mark.parametrize("where", ["saga", "savepoint"])
def test_rule_08_after_an_incomplete_unwind(where: str) -> None:
    @flow
    async def body() -> str:
        try:
            async with new_saga() as saga:
                scope = saga.savepoint() if where == "savepoint" else new_saga("another")
                async with scope as inner:
                    await do(inner, "a")
                    await do(inner, "b")
                    raise REFUSED
        except CompensationError as error:
            assert isinstance(error, ApplicationError)
            assert error.type == "CompensationError"
            assert error.non_retryable
            assert error.__cause__ is not None
            (report,) = error.details
            assert isinstance(report, SagaReport)
            assert [(step.name, step.undo_state) for step in report.steps] == [("a", "DONE"), ("b", "FAILED")]
            raise

    run = Run(body).autopilot({"undo_b": REFUSED})
    assert undone(run) == ["undo_b", "undo_a"]
    assert run.error.non_retryable
    assert run.error.type == "CompensationError"
    cause = run.error.cause
    while cause.type == "CompensationError":  # of the savepoint
        cause = cause.cause
    assert cause.type == "Refused"
    run.check()


def test_rule_08_the_cause_is_a_cancel() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await asyncio.sleep(60)

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(failed("undo_a", REFUSED))
    assert end(run) == "CompensationError"
    run.check()


if sys.version_info >= (3, 11):

    def test_rule_08_of_a_group_the_leaf_goes_on() -> None:
        leaf = ApplicationError("leaf", type="Leaf")

        @flow
        async def body() -> str:
            try:
                async with new_saga() as saga:
                    await do(saga, "a")
                    raise ExceptionGroup("g", [leaf, REFUSED])
            except ApplicationError as error:
                assert error is leaf
                assert error.__cause__ is None
                assert error.__context__ is None  # which the SDK would send as its cause
                return "leaf"
            return ""

        run = Run(body).autopilot({})
        assert run.result == "leaf"
        run.check()


def test_rule_08_a_closed_saga_is_told_so_in_an_update() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:

            async def work(name: str) -> str:
                return str(await do(saga, name))

            def push() -> None:
                saga.add_compensation("undo_late")

            workflow.set_update_handler("work", work)
            workflow.set_update_handler("push", push)
            await do(saga, "a")
        await asyncio.sleep(60)

    run = Run(body).start()
    run.activate(completed("a"))
    for name, args in (("work", ["b"]), ("push", [])):
        command = run.activate(update(name, *args))[-1]
        assert command[0] == "update_rejected"
        assert command[2].type == "SagaClosed"
        assert command[2].non_retryable
    run.activate(timer())
    assert run.history == ["a"]
    assert end(run) == "None"
    run.check()


def test_rule_06_a_good_end_lets_a_step_begin_that_was_handed_to_a_task() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            late = asyncio.create_task(do(saga, "b"))
        return str(await late)

    run = Run(body).start()
    run.activate(completed("a"))
    assert run.names == ["b"]
    run.activate(completed("b", "begun in time"))
    assert run.result == "begun in time"
    run.check()


@pytest.mark.parametrize("error", [SagaClosed("x"), SagaDeadlineExceeded("x")])
def test_rule_08_the_type_of_an_error_is_its_class_name(error: ApplicationError) -> None:
    assert isinstance(error, ApplicationError)
    assert error.type == type(error).__name__
    assert error.non_retryable


# --- misuse ---


async def callback() -> None:
    pass


async def same_key(saga: Saga) -> None:
    await do(saga, "b", key="1")
    await do(saga, "b", key="1")


async def same_key_pushed(saga: Saga) -> None:
    await do(saga, "b", key="1")
    saga.add_compensation("undo_b", step="b", key="1")


async def two_tasks(saga: Saga) -> None:
    async def task() -> None:
        await do(saga, "b")

    await asyncio.gather(task(), task())


async def two_tasks_unseen(saga: Saga) -> None:
    async def task() -> None:
        await do(saga, "b")

    await asyncio.gather(task(), task(), return_exceptions=True)


async def pivot_in_flight(saga: Saga) -> None:
    flying = asyncio.create_task(do(saga, "b"))
    await do(saga, "c")
    assert not flying.done()
    saga.pivot()


async def pivot_in_a_task(saga: Saga) -> None:
    async def task() -> None:
        saga.pivot()

    await asyncio.create_task(task())


async def pivot_with_a_step_of_the_parent_in_flight(saga: Saga) -> None:
    flying = asyncio.create_task(do(saga, "b"))
    async with saga.savepoint() as attempt:
        await do(attempt, "c")
        assert not flying.done()
        attempt.pivot()


async def detach_in_flight(saga: Saga) -> None:
    flying = asyncio.create_task(do(saga, "b"))
    await do(saga, "c")
    assert not flying.done()
    saga.detach()


async def detach_in_a_savepoint(saga: Saga) -> None:
    async with saga.savepoint() as attempt:
        attempt.detach()


async def detach_around_a_savepoint(saga: Saga) -> None:
    async with saga.savepoint():
        saga.detach()


async def detach_in_a_task(saga: Saga) -> None:
    async def task() -> None:
        saga.detach()

    await asyncio.create_task(task())


async def detach_callbacks(saga: Saga) -> None:
    saga.add_callback(callback)
    saga.detach()


async def compensate_in_a_task(saga: Saga) -> None:
    async def task() -> None:
        await saga.compensate()

    await asyncio.create_task(task())


async def continue_as_new(saga: Saga) -> None:
    workflow.continue_as_new()


async def not_entered(saga: Saga) -> None:
    await do(new_saga(), "b")


async def entered_again(saga: Saga) -> None:
    async with saga:
        pass


async def compensate_in_a_savepoint(saga: Saga) -> None:
    async with saga.savepoint():
        await saga.compensate()


async def state_used_twice(saga: Saga) -> None:
    state = saga.detach()
    async with Saga(state=state):
        pass
    async with Saga(state=state):
        pass


async def another_name(saga: Saga) -> None:
    Saga("another", state=saga.detach())


async def wrong_choice(saga: Saga) -> None:
    await do(saga, "b", compensation_from=lambda outcome: "undo_b")


@pytest.mark.parametrize(
    ("misuse", "fix"),
    [
        (same_key, "taken for the first"),
        (same_key_pushed, "taken for the first"),
        (two_tasks, "key="),
        (two_tasks_unseen, "key="),
        (pivot_in_flight, "await every step first"),
        (pivot_in_a_task, "call it where the scope is"),
        (pivot_with_a_step_of_the_parent_in_flight, "await every step first"),
        (detach_in_flight, "await every step first"),
        (detach_in_a_savepoint, "leave the savepoint first"),
        (detach_around_a_savepoint, "leave the savepoint first"),
        (detach_in_a_task, "call it where the scope is"),
        (detach_callbacks, "callback"),
        (compensate_in_a_task, "call it where the scope is"),
        (compensate_in_a_savepoint, "leave the savepoint first"),
        (state_used_twice, "is in use in this run"),
        (continue_as_new, "saga.detach()"),
        (not_entered, "async with"),
        (entered_again, "once"),
        (another_name, "name="),
        (wrong_choice, "compensation_from="),
    ],
)
def test_rule_08_misuse_fails_the_task_and_names_the_fix(misuse: Callable[[Saga], Awaitable[None]], fix: str) -> None:
    def code(right: bool) -> type[Any]:
        @flow
        async def body() -> str:
            async with new_saga() as saga:
                await do(saga, "a")
                if not right:
                    await misuse(saga)
            return "carried on"

        return body

    run = Run(code(right=False)).autopilot({})
    assert end(run) == "task: RuntimeError"
    assert fix in run.commands[-1][2]
    assert undone(run) == []
    if run.history == ["a"]:  # else the fixed code would have to give the other commands too
        run.restart(code(right=True)).autopilot({})
        assert run.result == "carried on"
    run.check()


def test_rule_08_misuse_in_a_task_that_nobody_awaits_is_raised_at_the_exit() -> None:
    @flow
    async def body() -> None:
        async def task(saga: Saga) -> None:
            await do(saga, "b")

        async with new_saga() as saga:
            unseen = [asyncio.create_task(task(saga)) for _ in range(2)]
            await do(saga, "a")
            for each in unseen:
                each.add_done_callback(lambda done: done.cancelled() or done.exception())

    run = Run(body).start()
    run.activate(completed("b"))
    run.activate(completed("a"))
    assert end(run) == "task: RuntimeError"
    assert "two tasks" in run.commands[-1][2]
    run.check()


def test_rule_08_a_query_handler_of_the_workflows_own() -> None:
    @flow
    async def body() -> None:
        workflow.set_query_handler("saga_report", lambda: "mine")
        async with new_saga():
            pass

    run = Run(body).start()
    assert end(run) == "task: RuntimeError"
    assert "rename" in run.commands[-1][2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda saga: do(saga, "b", compensation="x", compensation_from=lambda o: None), "not both"),
        (lambda saga: do(saga, "b", activity_id="mine"), "key="),
        (lambda saga: saga.execute_activity("b", 1, args=[2]), "not both"),
        (lambda saga: saga.execute_activity(callback), "add_callback"),
        (lambda saga: saga.add_compensation(callback), "add_callback"),
        (lambda saga: saga.add_compensation(Compensation("undo_b"), 1), "already"),
        (lambda saga: saga.idempotency_key(), "at least one"),
        (lambda saga: saga.idempotency_key(1.5), "str or an int"),
    ],
    ids=range(8),
)
def test_rule_08_wrong_calls_say_so_at_the_call(call: Callable[[Saga], Any], message: str) -> None:
    seen: list[str] = []

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            try:
                call(saga)
            except (TypeError, ValueError) as error:
                seen.append(str(error))

    run = Run(body).start()
    assert end(run) == "None"
    assert len(seen) == 1
    assert message in seen[0]
    run.check()


def test_rule_08_the_error_of_a_child_step() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await saga.execute_child_workflow("Child")

    run = Run(body).autopilot({"Child:do": REFUSED})
    assert isinstance(run.error, ChildWorkflowError)
    assert undone(run) == ["undo_a"]
    run.check()


def test_rule_08_the_step_raises_its_own_error_for_the_body_to_judge() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            try:
                await do(saga, "a")
            except ActivityError as error:
                assert isinstance(error.cause, ApplicationError)
                return str(error.cause.type)
        return ""

    assert Run(body).autopilot({"a:do": DECLINED}).result == "Declined"


def test_rule_08_a_deadline_says_so() -> None:
    @flow
    async def body() -> None:
        async with new_saga(deadline=5 * SECOND) as saga:
            await do(saga, "a")
            await workflow.execute_activity("plain", **OPTIONS)

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(timer())
    run.autopilot({})
    assert undone(run) == ["undo_a"]
    assert run.error.type == "SagaDeadlineExceeded"
    assert run.error.non_retryable
    assert run.error.cause is None
    run.check()
