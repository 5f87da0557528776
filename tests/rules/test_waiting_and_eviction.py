"""Rules 4 and 6: every place that waits looks for an eviction first; a good end lets begin what was handed to a task.

A worker evicts a run by cancelling all its tasks at once. Code of the user's that meets a `CancelledError` cannot tell
it from any other, and calls the saga again: in a `finally`, or because it swallowed it. Whatever it calls must end with
the eviction. Else the SDK logs "Eviction processed, but 1 tasks remain", again and again, and keeps the slot.

`run.check()` evicts a copy of the run after each activation, and insists on no command, no log, and no task left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Saga
from tests.driver import HANG, Run, cancel, completed, failed, signal, timer, update
from tests.rules.cancelling import PLUGIN, WAYS, background, both, ways
from tests.rules.workflows import REFUSED, do, end, flow, new_saga, undone

pytestmark = [
    pytest.mark.usefixtures("collected"),
    pytest.mark.slow,
    # Of a `gather` that meets the eviction: the SDK refuses its first task, and it never comes to the second coroutine.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

Options = dict[str, Any]
Act = Callable[[Saga], Coroutine[Any, Any, None]]


# --- what code does that meets a CancelledError ---


async def a_step(scope: Saga) -> None:
    await do(scope, "late", key="1")


async def steps_at_once(scope: Saga) -> None:
    await asyncio.gather(*[do(scope, "late", key=key) for key in "12"], return_exceptions=True)


async def a_child(scope: Saga) -> None:
    await scope.execute_child_workflow("Late", compensation="undo_late")


async def a_savepoint(scope: Saga) -> None:
    async with scope.savepoint() as attempt:
        await do(attempt, "late", key="1")


async def an_empty_savepoint(scope: Saga) -> None:
    async with scope.savepoint():
        pass


async def a_saga_of_its_own(scope: Saga) -> None:
    async with new_saga("own") as own:
        await do(own, "late", key="1")


async def a_failing_saga_of_its_own(scope: Saga) -> None:
    async with new_saga("own") as own:
        own.add_compensation("undo_own")
        raise REFUSED


async def registrations(scope: Saga) -> None:
    scope.add_compensation("undo_late", key="1")
    scope.add_callback(asyncio.sleep, 1)


async def an_error(scope: Saga) -> None:
    raise REFUSED


async def nothing(scope: Saga) -> None:
    pass


async def compensate(scope: Saga) -> None:
    await scope.compensate()


async def pivot(scope: Saga) -> None:
    scope.pivot()
    await do(scope, "late", key="1")


async def detach(scope: Saga) -> None:
    scope.detach()


async def again_and_again(scope: Saga) -> None:
    """Swallow whatever comes of it, some times over."""
    for key in "123":
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await do(scope, "late", key=key)


ACTS: list[Act] = [
    a_step,
    steps_at_once,
    a_child,
    a_savepoint,
    an_empty_savepoint,
    a_saga_of_its_own,
    a_failing_saga_of_its_own,
    registrations,
    an_error,
    nothing,
    again_and_again,
]
OF_THE_OWNER: list[Act] = [*ACTS, compensate, pivot, detach]


async def in_a_finally(wait: Coroutine[Any, Any, Any], scope: Saga, act: Act) -> None:
    try:
        await wait
    finally:
        await act(scope)


async def after_it_was_swallowed(wait: Coroutine[Any, Any, Any], scope: Saga, act: Act) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await wait
    await act(scope)


MEETS = [in_a_finally, after_it_was_swallowed]
Meet = Callable[[Coroutine[Any, Any, Any], Saga, Act], Coroutine[Any, Any, None]]


def goes_on(run: Run) -> bool:
    """Tell whether a run waits for an activity."""
    return bool(run.names) and run.closed is None and run.task_failure is None


def stuck(one: Callable[[Act, Meet], None], acts: list[Act]) -> list[str]:
    """Try each thing that code may do, in each way to come to it; return what an eviction does not end.

    In one test, and not in one for each: after every test the garbage is collected, which takes longer than a run.
    """
    found = []
    for act in acts:
        for meet in MEETS:
            try:
                one(act, meet)
            except (RuntimeError, AssertionError) as error:
                found.append(f"{act.__name__}, {meet.__name__}: {str(error).splitlines()[0]}")
    return found


# --- the body itself ---


async def in_a_sleep(saga: Saga) -> None:
    await asyncio.sleep(1000)


async def in_a_step(saga: Saga) -> None:
    await do(saga, "b")


async def in_gathered_savepoints(saga: Saga) -> None:
    async def branch(name: str) -> None:
        async with saga.savepoint() as attempt:
            await do(attempt, name)
            await asyncio.sleep(1000)

    await asyncio.gather(branch("b"), branch("c"), return_exceptions=True)


async def for_the_task_of_a_savepoint(saga: Saga) -> None:
    async def branch() -> None:
        async with saga.savepoint() as attempt:
            await do(attempt, "b")
            await asyncio.sleep(1000)

    await asyncio.wait([background(branch())])


async def beside_a_savepoint(saga: Saga) -> None:
    async def branch() -> None:
        async with saga.savepoint() as attempt:
            await do(attempt, "b")
            await asyncio.sleep(1000)

    background(branch())
    await asyncio.sleep(1000)


async def beside_an_unwinding_savepoint(saga: Saga) -> None:
    async def branch() -> None:
        async with saga.savepoint() as attempt:
            attempt.add_compensation("undo_s")
            raise REFUSED

    background(branch())
    await asyncio.sleep(1000)


async def beside_a_step(saga: Saga) -> None:
    background(do(saga, "b"))
    await asyncio.sleep(1000)


WAITS = [
    in_a_sleep,
    in_a_step,
    in_gathered_savepoints,
    for_the_task_of_a_savepoint,
    beside_a_savepoint,
    beside_an_unwinding_savepoint,
    beside_a_step,
]


@pytest.mark.parametrize("wait", WAITS)
def test_rule_04_eviction_meets_the_body(wait: Act) -> None:
    """An eviction ends the body and its scope, whatever the body does with the `CancelledError` (E6).

    Siblings: where it waits (a sleep, a step, gathered savepoints, a savepoint's task, beside a savepoint, an unwinding
    one, a step in a task), what it calls then (a step, several, a child, a savepoint, a saga, `compensate()`,
    `pivot()`, `detach()`, registrations, nothing: it ends its scope), in a `finally` or after it swallowed the error.
    """

    def one(act: Act, meet: Meet) -> None:
        @flow
        async def body() -> None:
            async with new_saga() as saga:
                await do(saga, "a")
                await meet(wait(saga), saga, act)

        run = Run(body).start()
        run.activate(completed("a"))
        run.evict_copy(len(run.activations))
        while goes_on(run) and run.names[0] in ("b", "c"):
            run.activate(completed(run.names[0]))
        run.check()

    assert stuck(one, OF_THE_OWNER) == []


def test_rule_04_eviction_meets_the_body_of_a_savepoint() -> None:
    """The same in a savepoint, whose end and whose parent's end wait too."""

    def one(act: Act, meet: Meet) -> None:
        @flow
        async def body() -> None:
            async with new_saga() as saga:
                background(do(saga, "beside"))
                async with saga.savepoint() as attempt:
                    await do(attempt, "a")
                    await meet(asyncio.sleep(1000), attempt, act)

        run = Run(body).start()
        run.activate(completed("a"))
        run.check()

    assert stuck(one, [*ACTS, compensate, pivot]) == []


# --- another task, while the whole does what it does ---


async def sleeps(saga: Saga) -> None:
    await asyncio.sleep(1000)


async def unwinds(saga: Saga) -> None:
    raise REFUSED


async def drains(saga: Saga) -> None:
    background(do(saga, "slow"))
    await asyncio.sleep(0)
    raise REFUSED


async def compensates(saga: Saga) -> None:
    await saga.compensate()


async def ends_well_with_a_step_in_flight(saga: Saga) -> None:
    background(do(saga, "slow"))
    await asyncio.sleep(0)


async def undoes_a_swallowed_step(saga: Saga) -> None:
    with contextlib.suppress(ActivityError):
        await do(saga, "bad")


async def unwinds_with_a_callback(saga: Saga) -> None:
    saga.add_callback(asyncio.sleep, 1000)
    raise REFUSED


WHOLES = [
    sleeps,
    unwinds,
    drains,
    compensates,
    ends_well_with_a_step_in_flight,
    undoes_a_swallowed_step,
    unwinds_with_a_callback,
]


@pytest.mark.parametrize("where", ["a task", "a savepoint of a task", "a step of a task"])
@pytest.mark.parametrize("whole", WHOLES)
def test_rule_04_eviction_meets_another_task_of_the_saga(whole: Act, where: str) -> None:
    """Who is about to be held by an unwind looks for the eviction first (B9).

    Siblings: the whole is open, unwinds, drains, runs `compensate()`, ends well with a step in flight, undoes a
    swallowed step, runs a callback; the task waits in a sleep, a savepoint, a step; all that it may call then.
    """

    def one(act: Act, meet: Meet) -> None:
        @flow
        async def body() -> None:
            async def beside(saga: Saga) -> None:
                if where == "a savepoint of a task":
                    async with saga.savepoint() as attempt:
                        await do(attempt, "s")
                        await meet(asyncio.sleep(1000), attempt, act)
                elif where == "a step of a task":
                    await meet(do(saga, "s"), saga, act)
                else:
                    await meet(asyncio.sleep(1000), saga, act)

            async with new_saga() as saga:
                await do(saga, "a")
                background(beside(saga))
                await asyncio.sleep(10)
                await whole(saga)

        run = Run(body).start()
        run.activate(completed("a"))
        if where == "a savepoint of a task":
            run.activate(completed("s"))
        run.activate(timer())
        if whole is undoes_a_swallowed_step:
            run.activate(failed("bad", REFUSED))
        run.evict_copy(len(run.activations))
        if goes_on(run):
            run.activate(completed(run.names[0]))
        run.check()

    assert stuck(one, ACTS) == []


@pytest.mark.filterwarnings("ignore:.*TMPRL1102")  # the run may end under its handler
@pytest.mark.parametrize("handler", ["signal", "update"])
@pytest.mark.parametrize("whole", [sleeps, unwinds, compensates])
def test_rule_04_eviction_meets_a_handler(whole: Act, handler: str) -> None:
    """The same in a handler, under the plugin, whose close waits too."""

    def one(act: Act, meet: Meet) -> None:
        @flow
        async def body() -> None:
            async with new_saga() as saga:

                async def work() -> None:
                    await meet(asyncio.sleep(1000), saga, act)

                workflow.set_signal_handler("work", work)
                workflow.set_update_handler("work", work)
                await do(saga, "a")
                await whole(saga)

        run = Run(body, **PLUGIN).start()
        run.activate(signal("work") if handler == "signal" else update("work"))
        run.activate(completed("a"))
        run.evict_copy(len(run.activations))
        if goes_on(run):
            run.activate(completed(run.names[0]))
        run.check()

    assert stuck(one, ACTS) == []


@both
def test_rule_04_eviction_meets_a_callback(options: Options) -> None:
    """The same in a callback of an unwind, which has a saga of its own."""

    def one(act: Act, meet: Meet) -> None:
        @flow
        async def body() -> None:
            async def callback() -> None:
                async with new_saga("undoing") as inner:
                    await do(inner, "x")
                    await meet(asyncio.sleep(1000), inner, act)

            async with new_saga() as saga:
                saga.add_compensation("undo_a")
                saga.add_callback(callback)
                raise REFUSED

        run = Run(body, **options).start()
        run.activate(completed("x"))
        run.check()

    assert stuck(one, ACTS) == []


@both
def test_rule_04_eviction_meets_a_cancelled_body(options: Options) -> None:
    """The same after a cancel: held past the pivot, or met by code that goes on, with the run evicted after it."""

    def one(act: Act, meet: Meet) -> None:
        @flow
        async def body() -> None:
            async def branch() -> None:
                async with new_saga() as saga:
                    saga.pivot()
                    await do(saga, "a")
                    await meet(asyncio.sleep(1000), saga, act)

            await asyncio.gather(branch())

        run = Run(body, **options).start()
        run.activate(cancel())
        run.activate(completed("a"))
        run.evict_copy(len(run.activations))
        if goes_on(run):
            run.activate(completed(run.names[0]))
        run.check()

    assert stuck(one, ACTS) == []


# --- a step handed to a task just before the scope ends (E5) ---


def as_a_task(saga: Saga, name: str) -> asyncio.Future[Any]:
    return asyncio.create_task(do(saga, name))


def as_a_future(saga: Saga, name: str) -> asyncio.Future[Any]:
    return asyncio.ensure_future(do(saga, name))


def in_a_gather(saga: Saga, name: str) -> asyncio.Future[Any]:
    return asyncio.gather(do(saga, name))


def in_a_helper(saga: Saga, name: str) -> asyncio.Future[Any]:
    step = do(saga, name)

    async def helper() -> Any:
        return await step

    return asyncio.create_task(helper())


def in_a_wait_for(saga: Saga, name: str) -> asyncio.Future[Any]:
    return asyncio.create_task(asyncio.wait_for(do(saga, name), 600))


def two_in_a_row(saga: Saga, name: str) -> asyncio.Future[Any]:
    first = do(saga, name)

    async def helper() -> Any:
        await first
        return await do(saga, f"{name}_more")

    return asyncio.create_task(helper())


HANDED = [as_a_task, as_a_future, in_a_gather, in_a_helper, in_a_wait_for, two_in_a_row]
Hand = Callable[[Saga, str], "asyncio.Future[Any]"]


@both
@pytest.mark.parametrize("hand", HANDED)
@pytest.mark.parametrize("scope", ["saga", "savepoint", "saga after a step", "a saga in a task"])
def test_rule_06_a_step_handed_to_a_task_begins_before_a_good_end(options: Options, hand: Hand, scope: str) -> None:
    """A scope that ends well first lets steps begin that were handed to a task, and then waits for them.

    Siblings: `create_task`, `ensure_future`, `gather`, `wait_for`, a helper; one or two steps; a saga, a savepoint, a
    saga in a task of its own.
    """
    seen: list[str] = []

    @flow
    async def body() -> str:
        async def work() -> None:
            async with new_saga() as saga:
                if scope == "savepoint":
                    async with saga.savepoint() as attempt:
                        task = hand(attempt, "b")
                    seen.append("left" if task.done() else "left too early")
                    return
                if scope == "saga after a step":
                    await do(saga, "a")
                task = hand(saga, "b")
            seen.append("left" if task.done() else "left too early")

        if scope == "a saga in a task":
            await asyncio.gather(work())
        else:
            await work()
        return "well"

    run = Run(body, **options).start()
    if scope == "saga after a step":
        run.activate(completed("a"))
    assert run.names == ["b"]
    run.autopilot({})
    assert run.result == "well"
    assert run.history[-1] == ("b_more" if hand is two_in_a_row else "b")
    assert undone(run) == []
    assert set(seen) <= {"left"}
    run.check()


@pytest.mark.parametrize("hand", [as_a_task, in_a_helper])
@pytest.mark.parametrize("scope", ["saga", "savepoint"])
def test_rule_07_a_step_handed_to_a_task_that_fails_is_undone_at_the_good_end(hand: Hand, scope: str) -> None:
    """A step that was handed to a task and fails unseen is undone when its scope ends, as any swallowed one."""

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            async with saga.savepoint() if scope == "savepoint" else contextlib.nullcontext(saga) as inner:
                task = hand(inner, "b")
                task.add_done_callback(lambda done: done.exception())
        return "well"

    run = Run(body).start()
    run.activate(completed("a"))
    assert run.names == ["b"]
    run.activate(failed("b", REFUSED))
    run.autopilot({})
    assert undone(run) == ["undo_b"]
    assert run.result == "well"
    run.check()


@pytest.mark.parametrize("hand", HANDED)
@pytest.mark.parametrize("how", ["fails", "compensate()"])
def test_rule_06_a_step_handed_to_a_task_before_a_bad_end_never_begins(hand: Hand, how: str) -> None:
    """Once a scope unwinds, no new step starts in it: the task that was handed one gets `CancelledError`."""
    seen: list[str] = []

    @flow
    async def body() -> str:
        with contextlib.suppress(ApplicationError):
            async with new_saga() as saga:
                await do(saga, "a")
                task = hand(saga, "b")
                if how == "fails":
                    raise REFUSED
                await saga.compensate()
        await asyncio.wait([task])
        try:
            task.result()
        except asyncio.CancelledError:
            seen.append("cancelled")
        return "well"

    run = Run(body).start()
    run.activate(completed("a"))
    run.autopilot({"b": HANG})
    assert [name for name in run.history if not name.startswith("undo_")] == ["a"]
    assert undone(run) == ["undo_a"]
    assert set(seen) == {"cancelled"}
    assert end(run) == "well"
    run.check()


@ways
def test_rule_06_a_cancel_while_a_handed_step_begins(way: str) -> None:
    """A cancel that comes while a good end waits for a step that was handed to a task ends the scope badly."""

    @flow
    async def body() -> None:
        async def work() -> None:
            async with new_saga() as saga:
                await do(saga, "a")
                background(do(saga, "b"))

        await WAYS[way](work())

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.autopilot({"b:do": HANG})
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()
