"""The same with `SagaPlugin`: handlers, closes and cancels that meet at the worst moment."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Saga
from temporal_saga.plugin import SagaPlugin
from tests.driver import HANG, Run, cancel, completed, failed, signal, timer, update
from tests.rules.workflows import OPTIONS, REFUSED, cancels, do, end, flow, new_saga, undone

pytestmark = pytest.mark.usefixtures("collected")

PLUGIN: dict[str, Any] = {"plugins": [SagaPlugin()]}
CLOSING = ("complete", "fail", "cancel", "continue_as_new")


async def bad() -> None:
    raise ApplicationError("from the handler", type="FromTheHandler")


def closings(run: Run) -> list[str]:
    """Return the commands that closed the run; the server takes one."""
    return [command[0] for command in run.commands if command[0] in CLOSING]


# --- handlers ---


def test_rule_05_a_failing_signal_handler_does_not_interrupt_a_callbacks_saga() -> None:
    """Once an unwind has begun nothing interrupts it, nor a saga that one of its callbacks runs."""

    @flow
    async def body() -> None:
        async def callback() -> None:
            async with new_saga("undoing") as inner:
                await do(inner, "x")

        workflow.set_signal_handler("bad", bad)
        async with new_saga() as saga:
            saga.add_callback(callback)
            raise REFUSED

    run = Run(body, **PLUGIN).start()
    assert run.names == ["x"]
    run.activate(signal("bad"))
    assert cancels(run) == []
    run.activate(completed("x"))
    assert closings(run) == ["fail"]
    assert end(run) == "FromTheHandler"
    run.check()


@pytest.mark.parametrize("first", ["continue_as_new", "a failing signal handler"])
def test_rule_12_a_run_whose_close_is_held_closes_once(first: str) -> None:
    """The run waits for its open sagas, then it closes: with one command, though a second close came meanwhile."""

    @flow
    async def body() -> None:
        async def work() -> None:
            async with new_saga("handler") as saga:
                await do(saga, "x")
                await asyncio.sleep(1000)

        workflow.set_update_handler("work", work)
        workflow.set_signal_handler("bad", bad)
        await workflow.execute_activity("main", **OPTIONS)
        workflow.continue_as_new()

    run = Run(body, **PLUGIN).start()
    run.activate(update("work"))
    run.activate(completed("x"))
    run.activate(completed("main") if first == "continue_as_new" else signal("bad"))
    assert closings(run) == []
    run.activate(signal("bad"))
    assert closings(run) == []
    run.activate(completed("undo_x"))
    assert undone(run) == ["undo_x"]
    assert closings(run) == (["continue_as_new"] if first == "continue_as_new" else ["fail"])
    run.check()


def test_rule_12_a_bug_in_the_saga_of_a_task_that_someone_gathers_fails_the_task() -> None:
    """A bug fails the workflow task, though `gather` returned it as a result; the close does not wait for ever."""

    @flow
    async def body() -> str:
        async def part() -> None:
            async with new_saga() as saga:
                await do(saga, "a")
                raise TypeError("a bug")

        await asyncio.gather(part(), return_exceptions=True)
        return "swallowed"

    run = Run(body, **PLUGIN).autopilot({})
    assert end(run) == "task: TypeError"
    assert run.history == ["a"]
    run.check()


@pytest.mark.parametrize("armed", [False, True])
@pytest.mark.parametrize("failures", [[], [Exception]], ids=["", "any exception is a failure"])
def test_rule_12_continue_as_new_in_a_signal_handler(armed: bool, failures: list[type[Exception]]) -> None:
    """continue_as_new over armed compensations is misuse, in a signal handler too; with nothing armed it is not."""

    @flow
    async def body() -> None:
        async def again() -> None:
            workflow.continue_as_new()

        workflow.set_signal_handler("again", again)
        async with new_saga() as saga:
            if armed:
                await do(saga, "a")
            await asyncio.sleep(1000)

    run = Run(body, failure_exception_types=failures, **PLUGIN).start()
    if armed:
        run.activate(completed("a"))
    run.activate(signal("again"))
    if not armed:
        assert run.closed == ("continue_as_new", [])
    elif not failures:
        assert end(run) == "task: RuntimeError"
        assert undone(run) == []
    else:
        run.activate(completed("undo_a"))
        assert end(run) == "RuntimeError"
    run.check()


def test_rule_06_a_savepoint_that_a_handler_opened_fails() -> None:
    """A savepoint may be opened in any task; its error leaves the handler and ends the run, the whole undone."""

    @flow
    async def body() -> None:
        async def branch() -> None:
            async with saga.savepoint() as attempt:
                await do(attempt, "b")
                raise REFUSED

        async with new_saga() as saga:
            workflow.set_signal_handler("branch", branch)
            await do(saga, "a")
            await asyncio.sleep(1000)

    run = Run(body, **PLUGIN).start()
    run.activate(completed("a"))
    run.activate(signal("branch"))
    run.activate(completed("b"))
    run.activate(completed("undo_b"))
    run.activate(completed("undo_a"))
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "Refused"
    run.check()


# --- a handler held by an unwind ---


async def alone(step: Coroutine[Any, Any, Any]) -> None:
    await step


WAYS: dict[str, Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, None]]] = {"alone": alone}

if sys.version_info >= (3, 11):

    async def in_gather(step: Coroutine[Any, Any, Any]) -> None:
        await asyncio.gather(step)

    async def in_wait_for(step: Coroutine[Any, Any, Any]) -> None:
        await asyncio.wait_for(step, 1000)

    async def in_timeout(step: Coroutine[Any, Any, Any]) -> None:
        async with asyncio.timeout(1000):
            await step

    async def in_task_group(step: Coroutine[Any, Any, Any]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(step)

    # On 3.10 a task that ends cancelled tells its waiters with a new CancelledError, and not with its own.
    WAYS |= {"gather": in_gather, "wait_for": in_wait_for, "timeout": in_timeout, "task group": in_task_group}


def handler_in(work: Callable[[Saga], Coroutine[Any, Any, None]]) -> type[Any]:
    """Return a workflow that tries another way, and whose signal `work` works in the first one's saga."""

    @flow
    async def body() -> str:
        with contextlib.suppress(ActivityError):
            async with new_saga("first") as saga:
                workflow.set_signal_handler("work", functools.partial(work, saga))
                await do(saga, "a")
        async with new_saga("second") as saga:
            await do(saga, "other")
        return "another way"

    return body


@pytest.mark.parametrize("way", WAYS)
def test_rule_12_a_signal_handler_held_by_an_unwind_does_not_close_a_run_that_tries_another_way(way: str) -> None:
    """A caller held by an unwind gets CancelledError; in a signal handler that ends the handler, and not the run."""

    async def work(saga: Saga) -> None:
        await WAYS[way](do(saga, "b"))

    run = Run(handler_in(work), **PLUGIN).start()
    run.activate(signal("work"))
    assert run.names == ["a", "b"]
    run.activate(failed("a", REFUSED))
    assert cancels(run) == ["b"]
    run.autopilot({"b:do": HANG})
    assert undone(run) == ["undo_b", "undo_a"]
    assert run.history[-1] == "other"
    assert run.result == "another way"
    run.check()


def test_rule_12_a_savepoint_of_a_signal_handler_in_a_saga_that_unwinds_does_not_close_the_run() -> None:
    """A savepoint that is undone with the whole ends the handler that opened it, and not the run."""

    async def work(saga: Saga) -> None:
        async with saga.savepoint() as attempt:
            await do(attempt, "b")
            await asyncio.sleep(10)

    run = Run(handler_in(work), **PLUGIN).start()
    run.activate(signal("work"))
    run.activate(completed("b"))
    run.activate(failed("a", REFUSED))
    run.activate(completed("undo_b"))
    run.activate(completed("undo_a"))
    run.activate(timer())  # the handler is at its savepoint's exit
    assert run.names == ["other"]
    run.activate(completed("other"))
    assert undone(run) == ["undo_b", "undo_a"]
    assert run.result == "another way"
    run.check()


# --- cancels ---

if sys.version_info >= (3, 11):

    @pytest.mark.parametrize("turns", range(10))
    def test_rule_05_a_cancel_in_the_turns_of_a_good_end_is_not_swallowed(turns: int) -> None:
        """A cancel of a task counts, in whichever turn of the loop of its saga's good end it comes."""

        @flow
        async def body() -> None:
            async def one() -> None:
                async with new_saga() as saga:
                    step = asyncio.create_task(do(saga, "a"))
                    await asyncio.sleep(0)
                assert step.done()
                await asyncio.sleep(5000)

            async def two() -> None:
                await asyncio.sleep(10)
                for _ in range(turns):
                    await asyncio.sleep(0)
                raise REFUSED

            async with asyncio.TaskGroup() as group:
                group.create_task(one())
                group.create_task(two())

        run = Run(body, **PLUGIN).start()
        run.activate(timer(), completed("a"))
        if run.closed is None:
            run.activate(completed("undo_a"))
        assert end(run) == "Refused"
        run.check()


@pytest.mark.parametrize("how", ["the workflow is cancelled", "the main method returns"])
def test_pivot_with_the_plugin_a_handlers_saga_goes_on_to_its_end(how: str) -> None:
    """What was done after the pivot is not undone by the workflow's cancel, nor by its end: the run waits for it."""

    @flow
    async def body() -> None:
        async def work() -> None:
            async with new_saga("handler") as saga:
                await do(saga, "a")
                saga.pivot()
                await do(saga, "b")
                await do(saga, "c")

        workflow.set_update_handler("work", work)
        await workflow.execute_activity("main", **OPTIONS)

    run = Run(body, **PLUGIN).start()
    run.activate(update("work"))
    run.activate(completed("a"))
    run.activate(cancel() if how == "the workflow is cancelled" else completed("main"))
    run.activate(completed("b"))
    assert "c" in run.names
    run.autopilot({"main": HANG})
    assert undone(run) == []
    assert run.history == ["main", "a", "b", "c"]
    assert end(run) == ("Cancelled" if how == "the workflow is cancelled" else "None")
    run.check()


@pytest.mark.parametrize("options", [{}, PLUGIN], ids=["without", "with"])
def test_pivot_savepoints_in_two_branches_end_one_after_the_other(options: dict[str, Any]) -> None:
    """The workflow's cancel is held until the scope ends: the end of the first branch does not cancel the second."""

    @flow
    async def body() -> None:
        async def branch(saga: Saga, name: str) -> None:
            async with saga.savepoint() as attempt:
                await do(attempt, name)

        async with new_saga() as saga:
            await do(saga, "a")
            saga.pivot()
            await asyncio.gather(branch(saga, "b"), branch(saga, "c"))

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("b"))
    assert run.names == ["c"]
    assert cancels(run) == []
    run.activate(completed("c"))
    assert undone(run) == []
    assert end(run) == "Cancelled"
    run.check()


if sys.version_info >= (3, 11):

    def test_pivot_with_the_plugin_a_timeout_in_a_branch_is_told_from_a_held_cancel() -> None:
        """A timeout around a savepoint undoes that savepoint, and no more, though the workflow's cancel is held."""

        @flow
        async def body() -> None:
            async def branch(saga: Saga) -> None:
                async with asyncio.timeout(10):
                    async with saga.savepoint() as attempt:
                        await do(attempt, "b")
                        await asyncio.sleep(1000)

            async with new_saga() as saga:
                saga.pivot()
                await do(saga, "a")
                await asyncio.gather(branch(saga), return_exceptions=True)
                await do(saga, "c")

        run = Run(body, **PLUGIN).start()
        run.activate(cancel())
        run.activate(completed("a"))
        run.activate(completed("b"))
        run.activate(timer())
        run.autopilot({})
        assert run.history == ["a", "b", "undo_b", "c"]
        assert end(run) == "Cancelled"
        run.check()
