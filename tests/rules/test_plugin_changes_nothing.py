"""Rule 12: nothing changes with the plugin for a run that has nothing to do with sagas.

The first to end the run wins, as without it; a run that stalls recovers as without it; histories from before the plugin
was installed replay with it, and the other way round. Where a table has an expectation, it is what the SDK does without
the plugin: each test runs both, and compares.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from temporal_saga.plugin import SagaPlugin
from tests.driver import Event, Run, cancel, completed, signal, timer, update
from tests.rules.cancelling import PLUGIN
from tests.rules.workflows import OPTIONS, flow

pytestmark = [pytest.mark.usefixtures("collected"), pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*TMPRL1102")]

Act = Callable[[], Any]
RUN_ID = "11111111-2222-4333-8444-555555555555"


def drive(
    body: type[Any],
    *tasks: list[Event],
    start: list[Event] | None = None,
    plugins: list[Any],
    single_batch: bool = False,
) -> Run:
    """Run a workflow through these workflow tasks, until it has closed; the events of `start` come with its start."""
    run = Run(body, run_id=RUN_ID, plugins=plugins, single_batch=single_batch).start(*start or [])
    for events in tasks:
        if run.closed is None and run.task_failure is None:
            run.activate(*events)
    return run


CLOSING = ("complete", "fail", "cancel", "continue_as_new")


def what_counts(run: Run) -> list[tuple[Any, ...]]:
    """Return the commands that the server gets, in a form that can be compared.

    Core takes the first command that closes the run for the last one, and moves only answers to updates before it.
    """
    if run.task_failure is not None:  # it is tried again, whichever bug was first
        return [("task_failed",)]
    commands = [
        tuple(f"{type(part).__name__}: {part}" if isinstance(part, BaseException) else part for part in command)
        for command in run.commands
    ]
    first = next((at for at, command in enumerate(commands) if command[0] in CLOSING), len(commands))
    answers = [command for command in commands[first + 1 :] if command[0].startswith("update_")]
    before = commands[:first]
    if first < len(commands):  # in the last workflow task the order of these two makes no difference
        answers += [command for command in before if command[0] in ("update_completed", "update_rejected")]
        before = [command for command in before if command not in answers]
    return [*before, *sorted(answers, key=str), *commands[first : first + 1]]


def same_with_and_without(
    body: type[Any], *tasks: list[Event], start: list[Event] | None = None, single_batch: bool = False
) -> None:
    """Check that a run gives the same commands with and without the plugin, so that each replays as the other."""
    without = drive(body, *tasks, start=start, plugins=[], single_batch=single_batch)
    with_it = drive(body, *tasks, start=start, plugins=[SagaPlugin()], single_batch=single_batch)
    assert what_counts(with_it) == what_counts(without)


# --- who ends the run first (D2) ---


def returns() -> str:
    return "main"


def returns_nothing() -> None:
    return None


def raises() -> None:
    raise ApplicationError("from here", type="Raised")


def raises_a_bug() -> None:
    raise TypeError("a bug")


def continues_as_new() -> None:
    workflow.continue_as_new()


def is_cancelled() -> None:
    raise asyncio.CancelledError


MAINS: list[Act] = [returns, raises, raises_a_bug, continues_as_new, is_cancelled]
HANDLERS: list[Act] = [returns_nothing, raises, raises_a_bug, continues_as_new, is_cancelled]


def both_wake(main: Act, handler: Act, kind: str, first: str) -> type[Any]:
    """Return a workflow whose main method and whose handler wake on one condition, and then act."""

    @flow
    async def body() -> Any:
        flags: list[None] = []

        async def work() -> Any:
            await workflow.wait_condition(lambda: bool(flags))
            if handler is raises:  # told from the main method's
                raise ApplicationError("from the handler", type="Handler")
            return handler()

        workflow.set_signal_handler("work", work)
        workflow.set_update_handler("work", work)
        workflow.set_signal_handler("go", lambda: flags.append(None))
        if first == "the handler":
            await workflow.execute_activity("late", **OPTIONS)
        await workflow.wait_condition(lambda: bool(flags))
        return main()

    return body


@pytest.mark.parametrize("single_batch", [False, True])
@pytest.mark.parametrize("first", ["the main method", "the handler"])
@pytest.mark.parametrize("kind", ["signal", "update"])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("main", MAINS)
def test_rule_12_the_first_to_end_the_run_wins(
    main: Act, handler: Act, kind: str, first: str, single_batch: bool
) -> None:
    """The main method and a handler end in one activation: what closes the run is the same with the plugin.

    Siblings: every end of the one (a result, an error, a bug, continue-as-new, a cancellation) with every end of the
    other; a signal or an update; either first. So the histories of the one replay with the other.
    """
    arrives = signal("work") if kind == "signal" else update("work")
    tasks = [[arrives], *([[completed("late")]] if first == "the handler" else []), [signal("go")]]
    same_with_and_without(both_wake(main, handler, kind, first), *tasks, single_batch=single_batch)


TABLE = [
    (returns, raises, "complete"),
    (returns, continues_as_new, "complete"),
    (continues_as_new, raises, "continue_as_new"),
    (raises, raises, "from here"),
]


@pytest.mark.parametrize(("main", "handler", "closes"), TABLE)
def test_rule_12_the_main_method_that_ended_first_closes_the_run(main: Act, handler: Act, closes: str) -> None:
    """The table of D2, with the plugin: the values are those of the SDK."""
    body = both_wake(main, handler, "signal", "the main method")
    run = drive(body, [signal("work")], [signal("go")], plugins=[SagaPlugin()])
    assert run.closed is not None
    assert closes in (run.closed[0], getattr(run.closed[1], "message", None) if len(run.closed) > 1 else None)


@pytest.mark.parametrize("handler", [raises, continues_as_new, is_cancelled])
def test_rule_12_a_handler_after_the_cancel_of_the_run(handler: Act) -> None:
    """The workflow's cancel and a handler's end in one activation: the first wins, in either order."""
    body = both_wake(returns, handler, "signal", "the main method")
    for events in ([cancel(), signal("go")], [signal("go"), cancel()]):
        same_with_and_without(body, [signal("work")], events)


def test_rule_12_handlers_that_end_one_after_the_other() -> None:
    """Of two failing handlers the first closes the run."""

    @flow
    async def body() -> None:
        async def fail(name: str) -> None:
            raise ApplicationError(name, type=name)

        workflow.set_signal_handler("fail", fail)
        await asyncio.sleep(60)

    same_with_and_without(body, [signal("fail", "one"), signal("fail", "two")])


# --- what the main method sees ---


def test_rule_12_the_name_of_the_main_task() -> None:
    """The main method's task has the name that the SDK gives it."""

    @flow
    async def body() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name().partition(" ")[0]

    same_with_and_without(body)


@pytest.mark.parametrize("where", ["a sleep", "a step of the loop", "an activity"])
def test_rule_12_a_cancel_reaches_the_main_method_in_the_same_turn(where: str) -> None:
    """What races with the workflow's cancel in one activation comes out the same."""

    @flow
    async def body() -> list[str]:
        seen: list[str] = []

        async def other() -> None:
            await workflow.wait_condition(lambda: bool(told))
            for number in range(6):
                seen.append(f"other {number}")
                await asyncio.sleep(0)

        told: list[None] = []
        workflow.set_signal_handler("tell", lambda: told.append(None))
        task = asyncio.create_task(other())
        try:
            if where == "a sleep":
                await asyncio.sleep(60)
            elif where == "an activity":
                await workflow.execute_activity("plain", **OPTIONS)
            else:
                await task
        except BaseException as error:
            seen.append(type(error).__name__)
        await asyncio.wait([task])
        return seen

    for events in ([signal("tell"), cancel()], [cancel(), signal("tell")]):
        for single_batch in (False, True):
            same_with_and_without(body, events, [timer()], single_batch=single_batch)


@pytest.mark.parametrize("single_batch", [False, True])
def test_rule_12_a_cancel_that_comes_with_the_start_comes_after_the_first_step(single_batch: bool) -> None:
    """What the main method enters or starts before its first wait meets the cancel as without the plugin.

    A timeout that is entered there counts the cancel among those of its own time; a task that is made there begins.
    """

    @flow
    async def body() -> list[str]:
        seen: list[str] = []

        async def tell() -> None:
            seen.append("a task of the first step")

        async def wait() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("the cancel")
            await asyncio.sleep(60)

        telling = asyncio.create_task(tell())
        asyncio.get_running_loop().call_soon(seen.append, "a callback of the first step")
        try:
            if sys.version_info >= (3, 11):
                async with asyncio.timeout(1):
                    await wait()
            else:
                await wait()
        except (asyncio.CancelledError, TimeoutError) as error:
            seen.append(type(error).__name__)
        await telling
        return seen

    same_with_and_without(body, [timer()], start=[cancel()], single_batch=single_batch)


# --- a stall (D1) ---


@pytest.mark.parametrize("plugins", [[], [SagaPlugin()]], ids=["without", "with"])
@pytest.mark.parametrize("where", ["at the start", "after a wait", "in a task"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_rule_12_an_eviction_while_another_thread_is_inside_the_run(plugins: list[Any], where: str) -> None:
    """A run that blocks its thread is evicted from another one: once the first has left, the eviction succeeds.

    So a worker meets a stall of more than two seconds. The SDK tries to evict again and again; with a wakeup that was
    lost meanwhile it would for ever, and the run would never come back. Siblings: the main method blocks at its start,
    after a wait, while a task of it does. (In a signal handler it is not evicted without the plugin either.)
    """
    inside, leave = threading.Event(), threading.Event()

    def stall() -> None:
        inside.set()
        leave.wait(20)

    @flow
    async def body() -> str:
        if where == "at the start":
            stall()
        await asyncio.sleep(1)
        if where == "in a task":

            async def task() -> None:
                stall()

            await asyncio.create_task(task())
        elif where == "after a wait":
            stall()
        await asyncio.sleep(1)
        return "done"

    run = Run(body, plugins=plugins)
    if where != "at the start":
        run.start()

    def activate() -> None:
        if where == "at the start":
            run.start()
        else:
            run.activate(timer())

    thread = threading.Thread(target=activate, daemon=True)
    thread.start()
    assert inside.wait(20)
    for _ in range(2):  # as the worker does: the thread is inside still
        try:
            run.evict()
        except (RuntimeError, AssertionError):
            continue
    leave.set()
    thread.join(20)
    for attempt in range(5):
        try:
            run.evict()
            break
        except (RuntimeError, AssertionError):
            assert attempt < 4, "tasks remain, for ever"


def test_rule_12_a_run_that_waits_is_evicted_with_the_plugin() -> None:
    """Every state of a plain run can be evicted: nothing started, waiting, cancelled, a handler running."""

    @flow
    async def body() -> str:
        async def work() -> None:
            await asyncio.sleep(1000)

        workflow.set_signal_handler("work", work)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await workflow.execute_activity("clean_up", start_to_close_timeout=timedelta(seconds=5))
        return "done"

    run = Run(body, **PLUGIN).start()
    run.activate(signal("work"))
    run.activate(cancel())
    run.activate(completed("clean_up"))
    run.check()
