"""Rule 4: what fails the workflow unwinds, and cancellation, wherever it lands; a bug does not."""

# ruff: noqa: F821 (groups are of Python 3.11 and later, as are the tests of them)

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Saga, SagaState
from tests.driver import Event, Run, cancel, cancelled, completed, failed, signal, timer
from tests.rules.workflows import DECLINED, OPTIONS, REFUSED, SECOND, do, end, flow, new_saga, undone


def after_a_step(then: Callable[[Saga], Awaitable[Any]]) -> type[Any]:
    """Return a workflow that does step `a`, then `then`."""

    @flow
    async def body() -> Any:
        async with new_saga() as saga:
            await do(saga, "a")
            return await then(saga)

    return body


def test_rule_04_an_application_error_in_the_body() -> None:
    async def then(saga: Saga) -> None:
        raise REFUSED

    run = Run(after_a_step(then)).autopilot({})
    assert run.history == ["a", "undo_a"]
    assert end(run) == "Refused"
    run.check()


def test_rule_04_a_failed_step() -> None:
    run = Run(after_a_step(lambda saga: do(saga, "b"))).autopilot({"b": DECLINED})
    assert run.history == ["a", "b", "undo_a"]
    assert end(run) == "ActivityError"
    run.check()


def test_rule_04_an_activity_that_is_no_step() -> None:
    async def then(saga: Saga) -> None:
        await workflow.execute_activity("plain", **OPTIONS)

    run = Run(after_a_step(then)).autopilot({"plain": REFUSED})
    assert run.history == ["a", "plain", "undo_a"]
    assert end(run) == "ActivityError"
    run.check()


def test_rule_04_what_the_worker_says_fails_a_workflow() -> None:
    async def then(saga: Saga) -> None:
        raise LookupError("no such account")

    run = Run(after_a_step(then), failure_exception_types=[LookupError]).autopilot({})
    assert run.history == ["a", "undo_a"]
    assert end(run) == "LookupError"
    run.check()


class Refusals(ApplicationError):
    """An error that counts what it holds, and holds nothing: it is falsy."""

    def __len__(self) -> int:
        return 0


def test_rule_04_an_error_that_is_falsy() -> None:
    async def then(saga: Saga) -> None:
        raise Refusals("no such account")

    run = Run(after_a_step(then)).autopilot({})
    assert run.history == ["a", "undo_a"]
    assert end(run) == "ApplicationError"
    run.check()


async def a_sleep(saga: Saga) -> None:
    await asyncio.sleep(60)


async def a_wait_condition(saga: Saga) -> None:
    await workflow.wait_condition(lambda: False)


async def a_step(saga: Saga) -> None:
    await do(saga, "b")


async def an_activity(saga: Saga) -> None:
    await workflow.execute_activity(
        "b",
        start_to_close_timeout=SECOND,
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


async def a_future(saga: Saga) -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("then", [a_sleep, a_wait_condition, a_step, an_activity, a_future])
def test_rule_04_cancel(then: Callable[[Saga], Awaitable[Any]]) -> None:
    run = Run(after_a_step(then)).start()
    run.activate(completed("a"))
    run.activate(cancel())
    if run.activities and run.names == ["b"]:
        assert run.activity("b").cancel_requested
        run.activate(cancelled("b"))
    run.autopilot({})
    assert undone(run) == (["undo_b", "undo_a"] if then is a_step else ["undo_a"])
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("single_batch", [False, True])
@pytest.mark.parametrize("first", ["cancel", "result"])
def test_rule_04_cancel_between_two_steps(first: str, single_batch: bool) -> None:
    run = Run(after_a_step(a_step), single_batch=single_batch).start()
    events: list[Event] = [cancel(), completed("a")]
    run.activate(*(events if first == "cancel" else reversed(events)))
    run.autopilot({})
    assert run.history == ["a", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_04_cancel_before_the_first_await() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            saga.add_compensation("undo_by_hand", 1)
            await do(saga, "a")

    run = Run(body).start(cancel())
    run.autopilot({})
    assert run.history == ["undo_by_hand"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_04_cancel_before_the_saga_is_entered() -> None:
    @flow
    async def body() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            async with new_saga() as saga:  # cleaning up is a saga of its own
                await do(saga, "a")
                await do(saga, "b")
            raise

    run = Run(body).start()
    run.activate(cancel())
    run.autopilot({"b:do": REFUSED})
    assert run.history == ["a", "b", "undo_b", "undo_a"]
    assert end(run) == "ActivityError"
    run.check()


def test_rule_04_cancel_that_the_body_turns_into_its_own_error() -> None:
    async def then(saga: Saga) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise REFUSED from None

    run = Run(after_a_step(then)).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.autopilot({})
    assert run.history == ["a", "undo_a"]
    assert end(run) == "Refused"
    run.check()


def code(bug: bool) -> type[Any]:
    """Return two versions of one workflow: with a bug in the body, and without."""

    async def then(saga: Saga) -> str:
        amount: Any = None if bug else 1
        await do(saga, "b")
        return str(amount + 1)

    return after_a_step(then)


def test_rule_04_a_bug_in_the_body_waits_for_the_fixed_code() -> None:
    run = Run(code(bug=True)).autopilot({})
    assert end(run) == "task: TypeError"
    assert run.history == ["a", "b"]
    run.restart(code(bug=False)).autopilot({})
    assert run.history == ["a", "b"]
    assert end(run) == "2"
    run.check()


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, AssertionError, KeyError, LookupError])
def test_rule_04_a_programming_error_does_not_unwind(error: type[Exception]) -> None:
    async def then(saga: Saga) -> None:
        raise error("a bug")

    run = Run(after_a_step(then)).autopilot({})
    assert run.history == ["a"]
    assert end(run) == f"task: {error.__name__}"
    run.check()


def test_rule_04_a_bug_in_a_savepoint() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            async with saga.savepoint() as attempt:
                await do(attempt, "b")
                raise TypeError("a bug")

    run = Run(body).autopilot({})
    assert run.history == ["a", "b"]
    assert end(run) == "task: TypeError"
    run.check()


def test_rule_04_a_bug_while_a_step_is_in_flight() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            flying = asyncio.create_task(do(saga, "a"))
            await do(saga, "b")
            assert not flying.done()
            raise TypeError("a bug")

    run = Run(body).start()
    run.activate(completed("b"))
    assert run.history == ["b", "a"]
    assert end(run) == "task: TypeError"
    run.check()


async def wait_for_a_timer(saga: Saga) -> None:
    await asyncio.wait_for(workflow.wait_condition(lambda: False), 5)


def test_rule_04_a_timeout_of_the_bodys_own() -> None:
    run = Run(after_a_step(wait_for_a_timer)).start()
    run.activate(completed("a"))
    run.activate(timer())
    run.autopilot({})
    assert run.history == ["a", "undo_a"]
    assert end(run) == "TimeoutError"
    run.check()


# --- continue-as-new ---


def test_rule_04_continue_as_new_over_armed_compensations_is_misuse() -> None:
    async def then(saga: Saga) -> None:
        workflow.continue_as_new()

    run = Run(after_a_step(then)).autopilot({})
    assert run.history == ["a"]
    assert end(run) == "task: RuntimeError"
    assert "saga.detach()" in run.commands[-1][2]
    run.check()


def test_rule_04_continue_as_new_with_nothing_armed() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a", compensation=None)
            workflow.continue_as_new()

    run = Run(body).autopilot({})
    assert run.closed == ("continue_as_new", [])
    run.check()


def test_rule_04_continue_as_new_outside_of_the_scope() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
        workflow.continue_as_new()

    run = Run(body).autopilot({})
    assert run.history == ["a"]
    assert run.closed == ("continue_as_new", [])
    run.check()


@workflow.defn
class Batches:
    """One step a run, three runs, then a failure."""

    @workflow.run
    async def run(self, number: int, state: SagaState | None) -> None:
        async with new_saga(state=state) as saga:
            await saga.execute_activity("a", number, compensation="undo_a")
            await saga.execute_activity("b", args=[number, "x"], compensation="undo_b")
            if number < 4:
                workflow.continue_as_new(args=[number + 1, saga.detach()])
            raise REFUSED


def test_rule_04_continue_as_new_three_times_in_a_row_with_a_stack() -> None:
    state: Any = None
    ids: list[str] = []
    for number in range(1, 4):
        run = Run(Batches, number, state).autopilot({})
        assert run.history == ["a", "b"]
        ids += [activity.id for activity in run.scheduled]
        assert run.closed is not None
        assert run.closed[0] == "continue_as_new"
        assert run.closed[1][0] == number + 1
        state = run.closed[1][1]
        run.check()
    run = Run(Batches, 4, state).autopilot({})
    ids += [activity.id for activity in run.scheduled[:2]]
    assert len(set(ids)) == 8
    undos = run.scheduled[2:]
    assert [(undo.name, undo.args) for undo in undos] == [
        pair for number in (4, 3, 2, 1) for pair in (("undo_b", [number, "x"]), ("undo_a", [number]))
    ]
    assert [undo.id.replace(":undo:", ":do:") for undo in undos] == ids[::-1]
    assert end(run) == "Refused"
    run.check()


@pytest.mark.parametrize("scope", ["savepoint", "saga", "callback"])
def test_rule_04_a_bug_that_someone_swallows_fails_the_task_all_the_same(scope: str) -> None:
    def code(bug: bool) -> type[Any]:
        async def callback() -> None:
            if bug:
                raise TypeError("a bug")

        @flow
        async def body() -> str:
            async with new_saga() as saga:
                await do(saga, "a")
                try:
                    async with saga.savepoint() if scope != "saga" else new_saga("inner") as inner:
                        await do(inner, "b")
                        if scope == "callback":
                            inner.add_callback(callback)
                            raise REFUSED
                        if bug:
                            raise TypeError("a bug")
                except Exception:
                    return "swallowed"
            return "carried on"

        return body

    run = Run(code(bug=True)).autopilot({})
    assert run.history == ["a", "b"]
    assert end(run) == "task: TypeError"
    run.restart(code(bug=False)).autopilot({})
    assert undone(run) == (["undo_b"] if scope == "callback" else [])
    assert run.result == ("swallowed" if scope == "callback" else "carried on")
    run.check()


def test_rule_04_continue_as_new_inside_a_savepoint() -> None:
    async def then(saga: Saga) -> None:
        async with saga.savepoint() as attempt:
            await do(attempt, "b")
            workflow.continue_as_new()

    run = Run(after_a_step(then)).autopilot({})
    assert run.history == ["a", "b"]
    assert end(run) == "task: RuntimeError"
    run.check()


# --- groups ---

if sys.version_info >= (3, 11):

    @pytest.mark.parametrize("slow", ["completes", "is cancelled", "fails"])
    def test_rule_04_a_task_group_in_the_scope(slow: str) -> None:
        async def then(saga: Saga) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(do(saga, "b"))
                group.create_task(do(saga, "c"))

        run = Run(after_a_step(then)).start()
        run.activate(completed("a"))
        run.activate(failed("b", REFUSED))
        assert run.names == ["c"]
        assert run.activity("c").cancel_requested
        how = {"completes": completed("c"), "is cancelled": cancelled("c"), "fails": failed("c", REFUSED)}
        run.activate(how[slow])
        run.autopilot({})
        assert undone(run) == ["undo_c", "undo_b", "undo_a"]
        assert end(run) == "ActivityError"
        assert run.error.activity_type == "b"
        run.check()

    def test_rule_04_a_task_group_around_sagas() -> None:
        async def one(name: str) -> None:
            async with new_saga(name) as saga:
                await do(saga, name)
                await do(saga, f"{name}2")

        @flow
        async def body() -> str:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(one("x"))
                    group.create_task(one("y"))
            except ExceptionGroup as error:
                return str([type(leaf).__name__ for leaf in error.exceptions])
            return ""

        run = Run(body).start()
        run.activate(completed("x"))
        run.activate(completed("y"))
        run.activate(failed("x2", DECLINED))
        assert run.names == ["y2", "undo_x"]
        run.activate(completed("undo_x"))
        assert run.activity("y2").cancel_requested
        run.activate(cancelled("y2"))
        run.autopilot({})
        assert undone(run) == ["undo_x", "undo_y2", "undo_y"]
        assert run.result == "['ActivityError']"
        run.check()

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (ExceptionGroup("g", [REFUSED]), "Refused"),
            (ExceptionGroup("g", [ExceptionGroup("h", [REFUSED]), DECLINED]), "Refused"),
            (BaseExceptionGroup("g", [asyncio.CancelledError(), DECLINED]), "Declined"),
            (BaseExceptionGroup("g", [asyncio.CancelledError()]), "CancelledError"),
        ],
        ids=["one", "nested", "first that is no cancellation", "cancellations alone"],
    )
    def test_rule_04_a_group_counts_as_its_leaves(error: BaseException, expected: str) -> None:
        @flow
        async def body() -> str:
            try:
                async with new_saga() as saga:
                    await do(saga, "a")
                    raise error
            except (ApplicationError, asyncio.CancelledError) as leaf:
                return getattr(leaf, "type", None) or type(leaf).__name__

        run = Run(body).autopilot({})
        assert run.history == ["a", "undo_a"]
        assert run.result == expected
        run.check()

    @pytest.mark.parametrize(
        "error",
        [
            ExceptionGroup("g", [REFUSED, TypeError("a bug")]),
            ExceptionGroup("g", [ExceptionGroup("h", [TypeError("a bug")]), REFUSED]),
            ExceptionGroup("g", [TypeError("a bug"), TimeoutError()]),
        ],
        ids=["after a failure", "nested", "before a failure"],
    )
    def test_rule_04_a_bug_among_the_leaves_does_not_unwind(error: BaseException) -> None:
        async def then(saga: Saga) -> None:
            raise error

        run = Run(after_a_step(then)).autopilot({})
        assert run.history == ["a"]
        assert end(run) in ("task: TypeError", "task: ExceptionGroup")
        run.check()

    def test_rule_04_asyncio_timeout_around_a_step() -> None:
        async def then(saga: Saga) -> None:
            async with asyncio.timeout(5):
                await do(saga, "b")

        run = Run(after_a_step(then)).start()
        run.activate(completed("a"))
        run.activate(timer())
        assert run.activity("b").cancel_requested
        run.activate(cancelled("b"))
        run.autopilot({})
        assert undone(run) == ["undo_b", "undo_a"]
        assert end(run) == "TimeoutError"
        run.check()

    def test_rule_04_asyncio_timeout_around_the_scope() -> None:
        @flow
        async def body() -> str:
            try:
                async with asyncio.timeout(5):
                    async with new_saga() as saga:
                        await do(saga, "a")
                        await asyncio.sleep(60)
            except TimeoutError:
                return "timed out"
            return "not reached"

        run = Run(body).start()
        run.activate(completed("a"))
        run.activate(timer())
        run.autopilot({})
        assert run.history == ["a", "undo_a"]
        assert run.result == "timed out"
        run.check()


def test_rule_04_wait_for_around_a_step() -> None:
    async def then(saga: Saga) -> None:
        await asyncio.wait_for(do(saga, "b"), 5)

    run = Run(after_a_step(then)).start()
    run.activate(completed("a"))
    run.activate(timer())
    assert run.activity("b").cancel_requested
    run.activate(cancelled("b"))
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "TimeoutError"
    run.check()


def test_rule_04_wait_for_around_the_scope() -> None:
    async def inner() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await asyncio.sleep(60)

    @flow
    async def body() -> str:
        try:
            await asyncio.wait_for(inner(), 5)
        except asyncio.TimeoutError:
            return "timed out"
        return "not reached"

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(timer())
    run.autopilot({})
    assert run.history == ["a", "undo_a"]
    assert run.result == "timed out"
    run.check()


def test_rule_04_gather_with_one_failing_and_one_slow() -> None:
    async def then(saga: Saga) -> None:
        await asyncio.gather(do(saga, "b"), do(saga, "slow"))

    run = Run(after_a_step(then)).start()
    run.activate(completed("a"))
    run.activate(failed("b", REFUSED))
    assert run.names == ["slow"]
    run.activate(completed("slow"))
    run.autopilot({})
    assert undone(run) == ["undo_slow", "undo_b", "undo_a"]
    assert end(run) == "ActivityError"
    assert run.error.activity_type == "b"
    run.check()


def test_rule_04_eviction_does_not_unwind() -> None:
    @flow
    async def body() -> None:
        stop: list[int] = []
        workflow.set_signal_handler("stop", stop.append)
        async with new_saga(deadline=60 * SECOND) as saga:
            await do(saga, "a")
            async with saga.savepoint() as attempt:
                await asyncio.gather(do(attempt, "b"), do(attempt, "c"))
                await asyncio.sleep(1)
                await workflow.wait_condition(lambda: bool(stop))
            await saga.execute_child_workflow("Child", compensation="undo_child")
            await do(saga, "d")

    run = Run(body).start()
    events = [completed("a"), completed("b"), completed("c"), timer(), signal("stop", 1)]
    for event in events:
        run.restart()
        run.activate(event)
    run.restart()
    run.autopilot({"d:do": REFUSED})
    assert undone(run) == ["undo_d", "undo_child", "undo_c", "undo_b", "undo_a"]
    assert end(run) == "ActivityError"
    run.check()


def test_rule_04_a_generator_closed_around_a_saga_is_misuse() -> None:
    @flow
    async def body() -> None:
        async def charges() -> AsyncGenerator[str, None]:
            async with new_saga() as saga:
                yield await do(saga, "a")
                yield await do(saga, "b")

        generator = charges()
        async for _ in generator:
            break
        await generator.aclose()

    run = Run(body).autopilot({})
    assert end(run) == "task: RuntimeError"
    assert undone(run) == []
