"""Misuse is seen: none passes in silence, none ends a run for good, and each message names a fix that exists.

Misuse that only the programmer can cause fails the workflow task, so that a fixed deployment carries on. Misuse that
data can cause, in a handler, is an ApplicationError: the update fails, and the run goes on.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from temporal_saga import Saga
from temporal_saga.plugin import SagaPlugin
from tests.driver import Command, Run, cancel, completed, failed, signal, timer, update
from tests.rules.workflows import REFUSED, do, end, flow, new_saga, undone

pytestmark = [
    pytest.mark.usefixtures("collected"),
    # Python's own word on a forgotten await comes whenever the coroutine is collected.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@activity.defn
async def take(amount: int) -> None: ...


@activity.defn
async def undo_nothing() -> None: ...


@activity.defn
async def undo_one(amount: int) -> None: ...


@activity.defn
async def undo_two(amount: int, note: str) -> None: ...


def message_of(run: Run) -> str:
    """Return the message of the failed workflow task."""
    assert run.task_failure is not None, end(run)
    return str(run.task_failure[2])


# --- a line dedented out of its scope (rule 8) ---


async def late_step(saga: Saga) -> None:
    await do(saga, "ship")


async def late_step_without_compensation(saga: Saga) -> None:
    await saga.execute_activity("ship", "ship")


async def late_child(saga: Saga) -> None:
    await saga.execute_child_workflow("Ship", 1, compensation="undo_ship")


async def late_step_in_a_task(saga: Saga) -> None:
    await asyncio.gather(do(saga, "ship"))


async def late_push(saga: Saga) -> None:
    saga.add_compensation("undo_ship")


async def late_callback(saga: Saga) -> None:
    saga.add_callback(asyncio.sleep, 0)


async def late_savepoint(saga: Saga) -> None:
    async with saga.savepoint():
        pass


async def late_undo(saga: Saga) -> None:
    await saga.undo("a")


async def late_compensate(saga: Saga) -> None:
    await saga.compensate()


LATE = [
    late_step,
    late_step_without_compensation,
    late_child,
    late_step_in_a_task,
    late_push,
    late_callback,
    late_savepoint,
    late_undo,
    late_compensate,
]


@pytest.mark.parametrize("late", LATE)
def test_rule_08_a_call_behind_the_scope_fails_the_task_and_the_fixed_code_carries_on(
    late: Callable[[Saga], Awaitable[None]],
) -> None:
    def code(right: bool) -> type[Any]:
        @flow
        async def body() -> str:
            async with new_saga("order") as saga:
                await do(saga, "a")
            if not right:
                await late(saga)
            return "carried on"

        return body

    run = Run(code(right=False)).start()
    run.activate(completed("a"))
    assert end(run) == "task: RuntimeError"
    assert "'order'" in message_of(run)
    assert "async with" in message_of(run)
    assert run.history == ["a"]
    assert run.children == []
    assert run.restart(code(right=True)).result == "carried on"
    run.check()


def test_rule_08_the_step_behind_the_scope_is_named() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
        await do(saga, "ship")

    run = Run(body).start()
    run.activate(completed("a"))
    assert "'ship'" in message_of(run)


@pytest.mark.parametrize("how", ["a caught failure", "a caught cancel", "compensate()"])
def test_rule_08_behind_a_scope_that_ended_badly_too(how: str) -> None:
    @flow
    async def body() -> None:
        try:
            async with new_saga("order") as saga:
                await do(saga, "a")
                if how == "a caught failure":
                    raise REFUSED
                if how == "compensate()":
                    await saga.compensate()
                else:
                    await asyncio.sleep(60)
        except (ApplicationError, asyncio.CancelledError):
            pass
        await do(saga, "ship")

    run = Run(body).start()
    run.activate(completed("a"))
    if how == "a caught cancel":
        run.activate(cancel())
    run.activate(completed("undo_a"))
    assert end(run) == "task: RuntimeError"
    assert "async with" in message_of(run)
    assert run.history == ["a", "undo_a"]
    run.check()


def test_rule_08_behind_a_savepoint_the_step_belongs_to_the_saga() -> None:
    """A dedent out of a savepoint leaves the saga open: its effects must not be undone for it."""

    def code(right: bool) -> type[Any]:
        @flow
        async def body() -> str:
            async with new_saga() as saga:
                await do(saga, "a")
                async with saga.savepoint() as attempt:
                    await do(attempt, "b")
                await do(saga if right else attempt, "ship")
            return "carried on"

        return body

    run = Run(code(right=False)).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    assert end(run) == "task: RuntimeError"
    assert "savepoint" in message_of(run)
    assert undone(run) == []
    run.restart(code(right=True)).autopilot({})
    assert run.result == "carried on"
    assert run.history == ["a", "b", "ship"]
    run.check()


@workflow.defn
class Closed:
    """A saga that has ended, and handlers that come late."""

    def __init__(self) -> None:
        self.saga = new_saga("order")
        self.seen: list[str] = []
        self.done = False

    @workflow.run
    async def run(self) -> list[str]:
        async with self.saga as saga:
            await do(saga, "a")
        await workflow.wait_condition(lambda: self.done)
        return self.seen

    @workflow.update
    async def step(self) -> None:
        await do(self.saga, "late")

    @workflow.update
    async def in_a_task(self) -> None:
        await asyncio.gather(do(self.saga, "late"))

    @workflow.update
    async def push(self) -> None:
        self.saga.add_compensation("undo_late")

    @workflow.update
    async def undo(self) -> None:
        await self.saga.undo("a")

    @workflow.signal
    async def caught(self) -> None:
        try:
            await do(self.saga, "late")
        except ApplicationError as error:
            self.seen.append(str(error.type))
        self.done = True


@pytest.mark.parametrize("plugins", [[], [SagaPlugin()]], ids=["without the plugin", "with it"])
@pytest.mark.parametrize("name", ["step", "in_a_task", "push", "undo"])
def test_rule_08_an_update_behind_the_scope_is_rejected_and_the_run_goes_on(name: str, plugins: list[Any]) -> None:
    run = Run(Closed, plugins=plugins).start()
    run.activate(completed("a"))
    command = run.activate(update(name))[-1]
    assert command[0] == "update_rejected", run.task_failure
    assert command[2].type == "SagaClosed"
    # A second caller of the name is no second task of a saga that goes on.
    run.activate(signal("caught"))
    assert run.history == ["a"]
    assert end(run) == "['SagaClosed']"
    run.check()


# --- a forgotten await (rule 6) ---


async def forgets_a_step(saga: Saga) -> None:
    do(saga, "b")  # type: ignore[unused-coroutine]


async def forgets_a_step_without_compensation(saga: Saga) -> None:
    saga.execute_activity("b", "b")  # type: ignore[unused-coroutine]


async def forgets_a_step_and_keeps_it(saga: Saga) -> None:
    saga.kept = do(saga, "b")  # type: ignore[attr-defined]


async def forgets_a_child(saga: Saga) -> None:
    saga.execute_child_workflow("b", 1, compensation="undo_b")  # type: ignore[unused-coroutine]


async def forgets_a_step_of_a_savepoint(saga: Saga) -> None:
    async with saga.savepoint() as attempt:
        do(attempt, "b")  # type: ignore[unused-coroutine]


async def forgets_an_undo(saga: Saga) -> None:
    saga.undo("a")  # type: ignore[unused-coroutine]


async def forgets_to_compensate(saga: Saga) -> None:
    saga.compensate()  # type: ignore[unused-coroutine]


FORGOTTEN = [
    (forgets_a_step, "'b'"),
    (forgets_a_step_without_compensation, "'b'"),
    (forgets_a_step_and_keeps_it, "'b'"),
    (forgets_a_child, "'b'"),
    (forgets_a_step_of_a_savepoint, "'b'"),
    (forgets_an_undo, "'a'"),
    (forgets_to_compensate, "compensate()"),
]


@pytest.mark.parametrize(("forgets", "name"), FORGOTTEN)
def test_rule_06_what_was_never_awaited_is_misuse_at_a_good_end(
    forgets: Callable[[Saga], Awaitable[None]], name: str
) -> None:
    """Python's own warning goes to a worker's stderr, where nobody reads it, and the step is skipped."""

    def code(right: bool) -> type[Any]:
        @flow
        async def body() -> str:
            async with new_saga() as saga:
                await do(saga, "a")
                if not right:
                    await forgets(saga)
            return "carried on"

        return body

    run = Run(code(right=False)).start()
    run.activate(completed("a"))
    assert end(run) == "task: RuntimeError"
    assert name in message_of(run)
    assert "await" in message_of(run)
    assert run.history == ["a"]
    assert run.restart(code(right=True)).result == "carried on"
    run.check()


@pytest.mark.parametrize("how", ["a failure", "a cancel"])
def test_rule_06_what_was_never_awaited_does_not_hinder_an_unwind(how: str) -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            do(saga, "b")  # type: ignore[unused-coroutine]
            if how == "a failure":
                raise REFUSED
            await asyncio.sleep(60)

    run = Run(body).start()
    run.activate(completed("a"))
    if how == "a cancel":
        run.activate(cancel())
    run.autopilot({})
    assert run.history == ["a", "undo_a"]
    assert end(run) == ("Refused" if how == "a failure" else "Cancelled")
    run.check()


def test_rule_06_each_step_that_was_never_awaited_is_named() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            do(saga, "b")  # type: ignore[unused-coroutine]
            do(saga, "c")  # type: ignore[unused-coroutine]

    run = Run(body).start()
    run.activate(completed("a"))
    assert "'b'" in message_of(run)
    assert "'c'" in message_of(run)


@pytest.mark.parametrize("how", ["a task", "gather", "ensure_future", "a task that the body forgot"])
def test_rule_06_a_step_that_was_handed_to_a_task_is_no_misuse(how: str) -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            if how == "gather":
                handed: Any = asyncio.gather(do(saga, "b"))
            elif how == "ensure_future":
                handed = asyncio.ensure_future(do(saga, "b"))
            else:
                handed = asyncio.create_task(do(saga, "b"))
        if how != "a task that the body forgot":
            await handed
        return "done"

    run = Run(body).autopilot({})
    assert end(run) == "done"
    assert run.history == ["a", "b"]
    run.check()


# --- one item twice (section "Details", keys) ---


@workflow.defn
class Cart:
    """A cart: its items come from a client, with their own keys."""

    def __init__(self) -> None:
        self.saga = new_saga("cart")
        self.end = ""

    @workflow.run
    async def run(self) -> str:
        async with self.saga as saga:
            await do(saga, "open")
            await do(saga, "reserve", key="of the main method")
            await workflow.wait_condition(lambda: self.end != "")
            if self.end == "refused":
                raise REFUSED
        return self.end

    @workflow.update
    async def add(self, item: str) -> str:
        await self.saga.execute_activity("reserve", item, compensation="undo_reserve", key=item)
        return item

    @workflow.update
    async def add_in_a_task(self, item: str) -> str:
        await asyncio.gather(self.saga.execute_activity("reserve", item, compensation="undo_reserve", key=item))
        return item

    @workflow.update
    async def add_in_a_savepoint(self, item: str) -> str:
        async with self.saga.savepoint() as attempt:
            await attempt.execute_activity("reserve", item, compensation="undo_reserve", key=item)
        return item

    @workflow.update
    async def add_child(self, item: str) -> str:
        await self.saga.execute_child_workflow("Reserve", item, step="reserve", compensation="undo_reserve", key=item)
        return item

    @workflow.update
    async def add_both(self, item: str) -> None:
        add: Any = self.add
        await asyncio.gather(add(item), add(item))

    @workflow.update
    async def push(self, item: str) -> str:
        self.saga.add_compensation("undo_reserve", item, step="reserve", key=item)
        return item

    @workflow.signal
    async def close(self, how: str) -> None:
        self.end = how


def open_cart(**options: Any) -> Run:
    run = Run(Cart, **options).start()
    run.activate(completed("open"))
    run.activate(completed("reserve"))
    return run


def done(run: Run, name: str, item: str, *, id: str) -> Command:
    """Deliver an update, let the step that came of it complete, and return the answer."""
    commands = run.activate(update(name, item, update_id=id))
    if run.names == ["reserve"]:
        commands = run.activate(completed("reserve"))
    return commands[-1]


@pytest.mark.parametrize("plugins", [[], [SagaPlugin()]], ids=["without the plugin", "with it"])
@pytest.mark.parametrize("close", ["refused", "cancel", "well"])
@pytest.mark.parametrize("name", ["add", "add_in_a_task", "add_in_a_savepoint", "add_child", "push"])
def test_one_item_twice_fails_its_update_and_the_run_goes_on(name: str, close: str, plugins: list[Any]) -> None:
    run = open_cart(plugins=plugins)
    assert done(run, "add", "apple", id="1") == ("update_completed", "1", "apple")
    refused = done(run, name, "apple", id="2")
    assert refused[:2] == ("update_rejected", "2"), run.task_failure
    error = refused[2]
    assert isinstance(error, ApplicationError)
    assert (error.type, error.non_retryable) == ("DuplicateStep", True)
    assert "reserve" in error.message
    assert "apple" in error.message
    # The next one is taken.
    assert done(run, "add", "pear", id="3") == ("update_completed", "3", "pear")
    run.activate(cancel() if close == "cancel" else signal("close", close))
    run.autopilot({})
    assert end(run) == {"refused": "Refused", "cancel": "Cancelled", "well": "well"}[close]
    expected = [] if close == "well" else ["undo_reserve"] * 3 + ["undo_open"]
    assert undone(run) == expected
    taken = [activity.args for activity in run.scheduled if activity.name == "undo_reserve"]
    assert taken == ([] if close == "well" else [["pear"], ["apple"], ["reserve"]])
    run.check()


def test_a_key_that_the_main_method_has_used_is_taken_for_a_handler_too() -> None:
    run = open_cart()
    refused = done(run, "add", "of the main method", id="1")
    assert refused[:2] == ("update_rejected", "1")
    assert refused[2].type == "DuplicateStep"
    run.activate(signal("close", "refused"))
    run.autopilot({})
    assert undone(run) == ["undo_reserve", "undo_open"]
    run.check()


def test_one_item_twice_in_one_handler() -> None:
    """The first of the two is a step like any other: it is done, and undone."""
    run = open_cart()
    run.activate(update("add_both", "apple"))
    assert run.task_failure is None
    run.activate(completed("reserve"))
    (answer,) = [command for command in run.commands if command[0] == "update_rejected"]
    assert answer[2].type == "DuplicateStep"
    run.activate(signal("close", "refused"))
    run.autopilot({})
    assert undone(run) == ["undo_reserve", "undo_reserve", "undo_open"]
    run.check()


@pytest.mark.parametrize("how", ["in the main method", "in a task of it"])
def test_one_item_twice_in_the_main_methods_tasks_is_misuse(how: str) -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a", key="k")
            again = do(saga, "a", key="k") if how == "in the main method" else task(saga)
            await asyncio.gather(again)

    async def task(saga: Saga) -> None:
        await asyncio.sleep(0)
        await do(saga, "a", key="k")

    run = Run(body).start()
    run.activate(completed("a"))
    assert end(run) == "task: RuntimeError"
    assert "taken for the first" in message_of(run)
    assert run.history == ["a"]
    run.check()


# --- callbacks ---

CALLED: list[Any] = []


@pytest.fixture
def called() -> list[Any]:
    """What the callbacks were called with."""
    CALLED.clear()
    return CALLED


def plain(*args: Any, **kwargs: Any) -> None:
    CALLED.append((args, kwargs))


async def coroutine(*args: Any, **kwargs: Any) -> None:
    await asyncio.sleep(1)
    CALLED.append((args, kwargs))


def returns_a_coroutine(*args: Any, **kwargs: Any) -> Awaitable[None]:
    return coroutine(*args, **kwargs)


def returns_a_task(*args: Any, **kwargs: Any) -> Awaitable[None]:
    return asyncio.create_task(coroutine(*args, **kwargs))


def returns_something(*args: Any, **kwargs: Any) -> str:
    CALLED.append((args, kwargs))
    return "which nobody wants"


class Object:
    def __call__(self, *args: Any, **kwargs: Any) -> None:
        CALLED.append((args, kwargs))

    def method(self, *args: Any, **kwargs: Any) -> None:
        CALLED.append((args, kwargs))


class AsyncObject:
    async def __call__(self, *args: Any, **kwargs: Any) -> None:
        await coroutine(*args, **kwargs)


CALLBACKS: dict[str, Callable[..., Any]] = {
    "a function": plain,
    "a lambda that returns None": lambda *args, **kwargs: plain(*args, **kwargs),
    "a lambda that returns a coroutine": lambda *args, **kwargs: coroutine(*args, **kwargs),
    "a partial": partial(plain),
    "a partial of a coroutine function": partial(coroutine),
    "an object": Object(),
    "an object with an async call": AsyncObject(),
    "a bound method": Object().method,
    "a coroutine function": coroutine,
    "a function that returns a coroutine": returns_a_coroutine,
    "a function that returns a task": returns_a_task,
    "a function that returns something": returns_something,
}


@pytest.mark.parametrize("how", CALLBACKS)
def test_a_callback_is_sync_or_async(how: str, called: list[Any]) -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.add_callback(CALLBACKS[how], 1, note="x")
            await do(saga, "b")
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    assert called == []
    run.activate(completed("undo_b"))
    if run.timers:
        assert run.names == []  # the next undo waits for it
        run.autopilot({"undo_a": None})
    assert called == [((1,), {"note": "x"})]
    if run.closed is None:
        run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "Refused"
    (report,) = run.query("saga_report")
    assert [step["undo_state"] for step in report["steps"]] == ["DONE"] * 3
    run.check()


@pytest.mark.parametrize("bug", [False, True], ids=["a failure", "a bug"])
def test_a_sync_callback_that_raises(bug: bool) -> None:
    """As an async one: a failure is a failed undo, a bug fails the workflow task."""

    def fails() -> None:
        raise TypeError("a bug") if bug else ApplicationError("no", type="Boom")

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.add_callback(fails)
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    if bug:
        assert end(run) == "task: TypeError"
        return
    run.autopilot({})
    assert undone(run) == ["undo_a"]
    assert end(run) == "CompensationError"
    run.check()


# --- messages that name a fix ---


def refusal(write: Callable[[Saga], Any]) -> str:
    """Return the message of the TypeError that a line of workflow code fails its task with."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            write(saga)

    run = Run(body).start()
    assert run.scheduled == []
    assert end(run) == "task: TypeError"
    return message_of(run)


MISFITS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a push with none of one": (lambda saga: saga.add_compensation(undo_one), "undo_one"),
    "a push with two of one": (lambda saga: saga.add_compensation(undo_one, args=[1, 2]), "undo_one"),
    "a push with one of two": (lambda saga: saga.add_compensation(undo_two, 1), "undo_two"),
    "a push with one of none": (lambda saga: saga.add_compensation(undo_nothing, 1), "undo_nothing"),
}


@pytest.mark.parametrize("how", MISFITS)
def test_arguments_that_do_not_fit_a_push(how: str) -> None:
    """A push has no `compensation_from=`: its fix is other arguments."""
    write, name = MISFITS[how]
    message = refusal(write)
    assert name in message
    assert "compensation_from" not in message
    assert "arg" in message


async def awaits(outcome: object) -> None: ...


async def calls_back(item: str) -> None: ...


@workflow.defn
class Ship:
    @workflow.run
    async def run(self, item: str) -> None: ...


WRONG_FUNCTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a callback that is an activity": (lambda saga: saga.add_callback(undo_one, 1), "saga.add_compensation(undo_one"),
    "a callback that is a workflow": (lambda saga: saga.add_callback(Ship.run, "x"), "saga.add_compensation(Ship"),
    "a callback that was called": (lambda saga: saga.add_callback(calls_back("x")), "without calling it"),
    "a callback that is a value": (lambda saga: saga.add_callback("undo"), "got str"),
    "a callback without its argument": (lambda saga: saga.add_callback(calls_back), "'item'"),
    "a callback with one more": (lambda saga: saga.add_callback(calls_back, "x", 1), "too many"),
    "a callback with another name": (lambda saga: saga.add_callback(calls_back, itm="x"), "'item'"),
    "a compensation that was called": (
        lambda saga: saga.execute_activity(take, 1, compensation=undo_one(1)),
        "without calling it",
    ),
    "a step that was called": (lambda saga: saga.execute_activity(take(1)), "without calling it"),
    "a push that was called": (lambda saga: saga.add_compensation(undo_one(1)), "without calling it"),
    "a choice that is an activity": (
        lambda saga: saga.execute_activity(take, 1, compensation_from=undo_one),
        "write compensation=undo_one",
    ),
    "a choice that is a workflow": (
        lambda saga: saga.execute_child_workflow("Pay", 1, compensation_from=Ship.run),
        "write compensation=",
    ),
    "a choice that awaits": (lambda saga: saga.execute_activity(take, 1, compensation_from=awaits), "with `def`"),
    "a choice that is a value": (lambda saga: saga.execute_activity(take, 1, compensation_from="undo"), "with `def`"),
    "a callback that is a call of a step": (lambda saga: saga.add_callback(do(saga, "b")), "without calling it"),
    "arguments that are one": (lambda saga: saga.execute_activity(take, args=1), "args=[...]"),
    "arguments that are a string": (lambda saga: saga.execute_activity("take", args="abc"), "args=[...]"),
    "a number in a key": (lambda saga: saga.idempotency_key("a", 1.5), "str(...)"),
    "a timeout": (lambda saga: saga.execute_activity(take, 1, timeout=1), "start_to_close_timeout="),
}


@pytest.mark.parametrize("how", WRONG_FUNCTIONS)
def test_a_function_of_the_wrong_kind_is_refused_where_it_is_written(how: str) -> None:
    """Not at the unwind, when the effects of the steps before it stand already, and not after the step itself."""
    write, fix = WRONG_FUNCTIONS[how]
    assert fix in refusal(write)


def injects(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that gives an argument."""

    @functools.wraps(function)
    def given(*args: Any) -> Any:
        return function("client", *args)

    return given


class Undos:
    """Things that can be called."""

    @functools.singledispatchmethod
    def put_back(self, item: str) -> None: ...

    def __call__(self, *items: str) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return Undos() if name.startswith("__temporal") else super().__getattribute__(name)


def two(client: str, item: str) -> None: ...


CALLABLES: dict[str, tuple[Any, ...]] = {
    "of C": (print,),
    "a partial": (partial(calls_back, "x"),),
    "a class": (dict,),
    "a method of C": (list[int]().append, 1),
    "a lambda": (lambda item, more=1: None, "x"),
    "a decorator that gives an argument": (injects(two), "x"),
    "a partial of that": (partial(injects(two), "x"),),
    "a helper that wraps an activity": (functools.wraps(undo_one)(lambda: None),),
    "a method that dispatches": (Undos().put_back, "x"),
    "an object": (Undos(), "x", "y"),
    "a mock": (Mock(), "x"),
    "a mock with a spec": (Mock(spec=two), "client", "x"),
    "an async mock": (AsyncMock(), "x"),
}


@pytest.mark.parametrize("how", CALLABLES)
def test_a_callback_may_be_anything_that_can_be_called(how: str) -> None:
    """A check that refuses what works would fail the workflow task of an open run after an upgrade."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            saga.add_callback(*CALLABLES[how])
            raise REFUSED

    assert end(Run(body).start()) == "Refused"


@pytest.mark.parametrize(
    "choose",
    [
        lambda outcome: None,
        partial(lambda more, outcome: None, 1),
        Mock(return_value=None),
        functools.wraps(undo_one)(lambda outcome: None),
    ],
    ids=["a lambda", "a partial", "a mock", "a helper that wraps an activity"],
)
def test_what_chooses_may_be_anything_that_can_be_called(choose: Any) -> None:
    """The same for `compensation_from=`."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await saga.execute_activity("a", compensation_from=choose)

    run = Run(body).start()
    run.activate(completed("a"))
    assert end(run) == "None"


@pytest.mark.parametrize(
    "args", [[1], (1,), deque([1]), range(1, 2), {1: 2}.keys()], ids=lambda each: type(each).__name__
)
def test_arguments_may_be_any_sequence(args: Any) -> None:
    """As for the SDK."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await saga.execute_activity(take, args=args)

    run = Run(body).start()
    assert list(run.activities[0].args) == [1]


def lost_in_a_run(how: str) -> Run:
    """Return a run whose workflow task fails for misuse, in a line that has `# here`."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            if how == "continue_as_new":
                workflow.continue_as_new()  # here
        async with new_saga("second") as second:
            way = second.savepoint()
            async with way:
                pass
            if how == "a savepoint's step":
                await way.execute_activity("b")  # here
        if how == "a step":
            await saga.execute_activity("b")  # here
        if how == "a child":
            await saga.execute_child_workflow("B")  # here
        if how == "a savepoint":
            async with saga.savepoint():  # here
                pass
        if how == "undo()":
            await saga.undo("a")  # here
        await saga.compensate()  # here

    run = Run(body).start()
    run.activate(completed("a"))
    return run


@pytest.mark.parametrize(
    "how", ["continue_as_new", "a savepoint's step", "a step", "a child", "a savepoint", "undo()", "compensate()"]
)
def test_a_task_that_fails_for_misuse_shows_the_line(how: str) -> None:
    """The SDK raises the error outside of the workflow's code, so the error brings the way to that code with it."""
    run = lost_in_a_run(how)
    assert run.task_failure is not None
    trace = run.activations[-1].completion.failed.failure.stack_trace
    assert trace.count("# here") == 1
    assert "temporal_saga/_" not in trace.rpartition("# here")[2]


@pytest.mark.parametrize("how", ["a failure", "a cancel", "a step"])
def test_a_detached_saga_that_does_not_go_on_is_told(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing undoes its steps here. The saga logs that, and does not raise: the next run may have the state."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.detach()
            if how == "a failure":
                raise REFUSED
            if how == "a step":
                await do(saga, "b")
            await asyncio.sleep(60)

    run = Run(body).start()
    run.activate(completed("a"))
    if how == "a cancel":
        run.activate(cancel())
    kind = {"a failure": "Refused", "a cancel": "CancelledError", "a step": "SagaClosed"}[how]
    assert undone(run) == []
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert told.startswith(f"Saga saga was left with {kind} after detach(), so nothing is undone here")


@pytest.mark.parametrize("how", ["activity", "child"])
def test_an_undo_without_arguments_of_a_step_that_has_one(how: str) -> None:
    def write(saga: Saga) -> Any:
        call: Any = saga.execute_activity if how == "activity" else saga.execute_child_workflow
        return call("take", 1, compensation=undo_nothing)

    assert "compensation=Compensation(undo_nothing)" in refusal(write)


def test_an_undo_with_more_arguments_than_its_step() -> None:
    undo: Any = undo_two
    message = refusal(lambda saga: saga.execute_activity(take, 1, compensation=undo))
    assert "Compensation(undo_two" in message


@pytest.mark.parametrize("how", ["activity", "method", "child"])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("compensate", "compensation"),
        ("compensations", "compensation"),
        ("compensation_form", "compensation_from"),
        ("steps", "step"),
        ("keys", "key"),
        ("retry_polcy", "retry_policy"),
    ],
)
def test_a_keyword_that_is_none_names_the_close_one(wrong: str, right: str, how: str) -> None:
    def write(saga: Saga) -> Any:
        call: Any = {
            "activity": saga.execute_activity,
            "method": saga.execute_activity_method,
            "child": saga.execute_child_workflow,
        }[how]
        return call("take", 1, **{wrong: "undo"})

    message = refusal(write)
    assert f"{wrong}=" in message
    assert f"{right}=" in message.replace(f"{wrong}=", "")


@pytest.mark.parametrize(("wrong", "right"), [("steps", "step"), ("keys", "key"), ("sumary", "summary")])
def test_the_same_in_a_push(wrong: str, right: str) -> None:
    options: Any = {wrong: "x"}
    message = refusal(lambda saga: saga.add_compensation("undo", 1, **options))
    assert f"{right}=" in message.replace(f"{wrong}=", "")


@pytest.mark.parametrize("inside", ["saga", "savepoint"])
@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("start_activity", "execute_activity"),
        ("start_activity_method", "execute_activity_method"),
        ("start_child_workflow", "execute_child_workflow"),
        ("execute_activity_class", "execute_activity"),
        ("execute_local_activity", "add_compensation"),
        ("execute_local_activity_method", "add_compensation"),
        ("start_local_activity", "add_compensation"),
    ],
)
def test_what_a_saga_does_not_have(name: str, fix: str, inside: str) -> None:
    """These are the names that `workflow.` has: whoever moves a workflow over writes them."""
    seen: list[str] = []

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            scope = saga if inside == "saga" else saga.savepoint()
            assert not hasattr(scope, name)
            try:
                getattr(scope, name)
            except AttributeError as error:
                seen.append(str(error))

    assert end(Run(body).start()) == "None"
    assert f"{fix}(" in seen[0]
    assert name in seen[0].replace(f"{fix}(", "")


def test_any_other_name_is_what_python_says() -> None:
    with pytest.raises(AttributeError, match="frobnicate"):
        Saga().frobnicate  # type: ignore[attr-defined]  # noqa: B018


def test_a_saga_outside_of_a_workflow() -> None:
    async def script() -> None:
        async with Saga():
            pass

    with pytest.raises(RuntimeError, match=r"outside a workflow.*@workflow\.run"):
        asyncio.run(script())


def test_a_saga_in_an_activity() -> None:
    @activity.defn
    async def work() -> None:
        async with Saga():
            pass

    with pytest.raises(RuntimeError, match=r"outside a workflow.*@workflow\.run"):
        asyncio.run(ActivityEnvironment().run(work))


def test_a_caught_failure_of_a_step_is_no_misuse() -> None:
    """What a body may do stays silent: swallow a failure, leave a savepoint unused, hold a coroutine and await it."""

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            saga.savepoint()
            held = do(saga, "b")
            try:
                await do(saga, "a")
            except Exception as error:
                if not workflow.is_failure_exception(error):
                    raise
            await held
        return "done"

    run = Run(body).start()
    run.activate(failed("a", REFUSED))
    run.autopilot({})
    assert run.history == ["a", "b", "undo_a"]
    assert run.result == "done"
    run.check()


@pytest.mark.parametrize("before", [True, False], ids=["together with it", "after it"])
def test_a_call_that_is_forgotten_after_a_swallowed_failure_is_misuse(before: bool) -> None:
    """What was called together with a step that failed may have been given up, as by a gather. A later call was not."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            calls = [do(saga, "b")] if before else []
            try:
                await do(saga, "a")
            except ApplicationError:
                pass
            except Exception:
                calls += [] if before else [do(saga, "b")]
            assert calls

    run = Run(body).start()
    run.activate(failed("a", REFUSED))
    if before:
        run.activate(completed("undo_a"))
        assert run.task_failure is None
    else:
        assert "step 'b' was called and never awaited" in message_of(run)


@pytest.mark.parametrize("parks", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_a_call_that_a_timeout_gives_up_before_it_begins(inside: bool, parks: bool) -> None:
    """Handed to what waits for a semaphore, it looks forgotten: the message says to call the step inside of that.

    The one that holds the semaphore may be parked, for days.
    """

    @flow
    async def body() -> str:
        free = asyncio.Semaphore(1)

        async def one_by_one(call: Callable[[], Awaitable[Any]]) -> None:
            async with free:
                await call()

        async with new_saga(on_step_failure="park" if parks else "raise") as saga:
            first = asyncio.create_task(one_by_one(lambda: do(saga, "a", key="a")))
            await asyncio.sleep(0)
            made = None if inside else do(saga, "b", key="b")
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(one_by_one(lambda: made or do(saga, "b", key="b")), 60)
            await first
        return "done"

    run = Run(body).start()
    if parks:
        run.activate(failed("a", ApplicationError("no")))
    run.activate(timer())
    if parks:
        run.activate(update("saga_resolve", run.scheduled[0].id.rpartition(":")[2], "retry", "ann", "it was down"))
    run.activate(completed("a"))
    if inside:
        assert run.result == "done"
        run.check()
    else:
        assert "call a step inside a semaphore or a timeout, not before it" in message_of(run)


def test_a_task_that_has_not_called_its_step_when_the_scope_ends_is_not_waited_for() -> None:
    """The scope knows of calls, and not of tasks: the message says to await the task."""

    @flow
    async def body() -> None:
        async def later() -> None:
            await asyncio.sleep(5)
            await do(saga, "b", key="b")

        async with new_saga() as saga:
            task = asyncio.create_task(later())
            await do(saga, "a")
        await task

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(timer())
    assert "step 'b' was called after saga 'saga' had ended" in message_of(run)
    assert "and await your tasks there" in message_of(run)
