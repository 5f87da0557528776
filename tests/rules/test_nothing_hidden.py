"""Rule 2: an undo that failed for good is the whole saga's, whoever caught the error; and a state goes to one.

In each test but the last ones a savepoint's compensation fails for good, and somebody catches what the savepoint
raised. An effect stands, so the saga must not end well: it ends INCOMPLETE, with `CompensationError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import CompensationError, Saga, SagaState
from tests.driver import Run, cancel, child_completed, child_started, completed, failed, signal, timer, update
from tests.rules.cancelling import PLUGIN, TaskGroup, background, both
from tests.rules.workflows import REFUSED, SECOND, do, end, flow, new_saga, shared, undone

pytestmark = [pytest.mark.usefixtures("collected"), pytest.mark.slow]

Options = dict[str, Any]
Way = Callable[[Saga], Coroutine[Any, Any, None]]
NO_SEAT = shared(ApplicationError("no seat", type="NoSeat", non_retryable=True))


def causes(error: BaseException | None) -> Iterator[str]:
    """Yield the type of an error and of each of its causes."""
    while error is not None:
        yield str(getattr(error, "type", None) or type(error).__name__)
        error = getattr(error, "cause", None)


def report(run: Run) -> tuple[str, dict[str, str]]:
    """Return the state of the saga that failed, and the undo states of its steps, as the error's detail has them."""
    detail = run.error.details[0]
    return detail["state"], {step["name"]: step["undo_state"] for step in detail["steps"]}


async def fails(saga: Saga) -> None:
    """Open a savepoint that fails, and whose undo will fail."""
    async with saga.savepoint() as attempt:
        await do(attempt, "s")
        raise NO_SEAT


# --- how the savepoint comes to an undo that fails ---


async def by_its_failure(saga: Saga) -> None:
    await fails(saga)


async def by_a_swallowed_step(saga: Saga) -> None:
    async with saga.savepoint() as attempt:
        await do(attempt, "s")
        with contextlib.suppress(ActivityError):
            await do(attempt, "swallowed")


async def by_compensate(saga: Saga) -> None:
    async with saga.savepoint() as attempt:
        await do(attempt, "s")
        await attempt.compensate()


async def two_deep(saga: Saga) -> None:
    async with saga.savepoint() as outer:
        await do(outer, "o")
        await fails(outer)


async def two_deep_and_caught_between(saga: Saga) -> None:
    async with saga.savepoint() as outer:
        with contextlib.suppress(ApplicationError):
            await fails(outer)


async def by_a_callback(saga: Saga) -> None:
    async def callback() -> None:
        raise REFUSED

    async with saga.savepoint() as attempt:
        await do(attempt, "s")
        attempt.add_callback(callback)
        raise NO_SEAT


async def by_undo(saga: Saga) -> None:
    await do(saga, "s")
    await saga.undo("s")  # type: ignore[attr-defined,unused-ignore]


async def by_undo_in_a_savepoint(saga: Saga) -> None:
    async with saga.savepoint() as attempt:
        await do(attempt, "s")
        with contextlib.suppress(ApplicationError):
            await attempt.undo("s")  # type: ignore[attr-defined,unused-ignore]


HOW = [
    by_its_failure,
    by_a_swallowed_step,
    by_compensate,
    two_deep,
    two_deep_and_caught_between,
    by_a_callback,
    by_undo,
    by_undo_in_a_savepoint,
]
BEHAVIOURS: dict[str, Any] = {"undo_s": REFUSED, "swallowed:do": REFUSED, "undo_swallowed": REFUSED}


@both
@pytest.mark.parametrize("how", HOW)
def test_rule_02_a_failed_undo_of_a_savepoint_is_the_whole_sagas(options: Options, how: Way) -> None:
    """A saga whose savepoint could not be undone ends INCOMPLETE, though the body caught the error and ended well.

    Siblings: a failure, a swallowed step's undo at a good end, `compensate()`, two deep (caught by the body, or
    between), a callback, `undo()`.
    """

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            with contextlib.suppress(ApplicationError):
                await how(saga)
            await do(saga, "b")
        return "well"

    run = Run(body, **options).autopilot(BEHAVIOURS)
    assert end(run) == "CompensationError"
    state, undo_states = report(run)
    assert state == "INCOMPLETE"
    assert "FAILED" in undo_states.values()
    # It has ended badly: what else it did is undone, and nothing twice.
    assert undone(run)[-2:] == ["undo_b", "undo_a"]
    assert len(set(undone(run))) == len(undone(run))
    run.check()


@both
def test_rule_02_the_cause_is_what_the_savepoint_failed_with(options: Options) -> None:
    """The whole's `CompensationError` has the savepoint's error as its cause, so that a person sees why."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            with contextlib.suppress(ApplicationError):
                await fails(saga)

    run = Run(body, **options).autopilot(BEHAVIOURS)
    assert end(run) == "CompensationError"
    assert list(causes(run.error))[-1] == "NoSeat"
    assert run.error.non_retryable
    run.check()


# --- how the whole ends after it ---


@both
@pytest.mark.parametrize("then", ["well", "pivots", "compensate()", "fails", "is cancelled", "passes its deadline"])
def test_rule_02_however_the_whole_ends_it_tells(options: Options, then: str) -> None:
    """The whole tells of the failed undo, whatever comes after the error was caught; what it did is undone once."""

    @flow
    async def body() -> str:
        async with new_saga(deadline=5 * SECOND if then == "passes its deadline" else None) as saga:
            await do(saga, "a")
            with contextlib.suppress(ApplicationError):
                await fails(saga)
            if then == "pivots":
                saga.pivot()
            await do(saga, "b")
            if then == "compensate()":
                await saga.compensate()
            elif then == "fails":
                raise REFUSED
            elif then not in ("well", "pivots"):
                await asyncio.sleep(60)
        return "well"

    run = Run(body, **options).start()
    for name in "as":
        run.activate(completed(name))
    run.activate(failed("undo_s", REFUSED))
    run.activate(completed("b"))
    if then == "is cancelled":
        run.activate(cancel())
    elif then == "passes its deadline":
        run.activate(timer())
    run.autopilot({})
    assert undone(run) == ["undo_s", "undo_b", *([] if then == "pivots" else ["undo_a"])]
    assert end(run) == "CompensationError"
    assert report(run)[0] == "INCOMPLETE"
    told = list(causes(run.error))
    if then == "fails":
        assert "Refused" in told
    elif then == "passes its deadline":
        assert "SagaDeadlineExceeded" in told
    run.check()


@workflow.defn
class CarriesOn:
    """Carries on with a state, and ends well."""

    @workflow.run
    async def run(self, state: SagaState) -> str:
        async with new_saga(state=state) as saga:
            await do(saga, "c")
        return "well"


@both
def test_rule_02_detach_does_not_hide_it(options: Options) -> None:
    """The failed undo is told at the end of the saga, or by `detach()`: not lost on the way to the next run."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            with contextlib.suppress(ApplicationError):
                await fails(saga)
            workflow.continue_as_new(saga.detach())

    run = Run(body, **options).autopilot(BEHAVIOURS)
    run.check()
    if run.closed is not None and run.closed[0] == "continue_as_new":
        run = Run(CarriesOn, *run.closed[1], **options).autopilot({})
        run.check()
    assert end(run) == "CompensationError"


@both
def test_rule_02_continue_as_new_does_not_hide_it(options: Options) -> None:
    """`continue_as_new` in the scope, with nothing armed any more, does not drop the failed undo without a word."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            with contextlib.suppress(ApplicationError):
                await fails(saga)
            workflow.continue_as_new()

    run = Run(body, **options).autopilot(BEHAVIOURS)
    assert end(run) in ("CompensationError", "task: RuntimeError")
    run.check()


# --- who catches it ---


async def caught_as_an_application_error(saga: Saga) -> None:
    with contextlib.suppress(ApplicationError):
        await fails(saga)


async def caught_as_a_compensation_error(saga: Saga) -> None:
    with contextlib.suppress(CompensationError):
        await fails(saga)


async def returned_by_a_gather(saga: Saga) -> None:
    await asyncio.gather(fails(saga), return_exceptions=True)


async def in_a_task_that_nobody_awaits(saga: Saga) -> None:
    background(fails(saga))
    await asyncio.sleep(60)


async def in_a_task_that_ends_last(saga: Saga) -> None:
    background(fails(saga))
    await asyncio.sleep(0)


async def in_a_cancelled_task_that_nobody_awaits(saga: Saga) -> None:
    async def branch() -> None:
        async with saga.savepoint() as attempt:
            await do(attempt, "s")
            await asyncio.sleep(1000)

    task = background(branch())
    await asyncio.sleep(60)
    task.cancel()


async def under_a_wait_for(saga: Saga) -> None:
    async def branch() -> None:
        async with saga.savepoint() as attempt:
            await do(attempt, "s")
            await asyncio.sleep(1000)

    with contextlib.suppress(asyncio.TimeoutError, ApplicationError):
        await asyncio.wait_for(branch(), 60)


async def in_gathered_savepoints(saga: Saga) -> None:
    async def good() -> None:
        async with saga.savepoint() as attempt:
            await do(attempt, "g")

    await asyncio.gather(good(), fails(saga), return_exceptions=True)


CATCHERS = [
    caught_as_an_application_error,
    caught_as_a_compensation_error,
    returned_by_a_gather,
    in_a_task_that_nobody_awaits,
    in_a_task_that_ends_last,
    in_a_cancelled_task_that_nobody_awaits,
    under_a_wait_for,
    in_gathered_savepoints,
]

if sys.version_info >= (3, 11):

    async def in_a_task_group(saga: Saga) -> None:
        try:
            async with TaskGroup() as group:
                group.create_task(fails(saga))
        except Exception as error:
            if not hasattr(error, "exceptions"):
                raise

    CATCHERS.append(in_a_task_group)


@both
@pytest.mark.parametrize("catcher", CATCHERS)
@pytest.mark.parametrize("depth", [1, 2])
def test_rule_02_whoever_catches_it(options: Options, catcher: Way, depth: int) -> None:
    """The failed undo is the whole saga's, whichever code caught the savepoint's error, or none did.

    Siblings: by its class, `gather(return_exceptions=True)`, a task that nobody awaits, cancelled or not, that ends
    before the scope or after, `wait_for`, gathered savepoints, a TaskGroup; the same in a savepoint that ends well.
    """

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            if depth == 1:
                await catcher(saga)
            else:
                async with saga.savepoint() as attempt:
                    await catcher(attempt)
        return "well"

    run = Run(body, **options).autopilot(BEHAVIOURS)
    assert end(run) == "CompensationError"
    assert report(run)[0] == "INCOMPLETE"
    assert undone(run)[-1] == "undo_a"
    run.check()


@pytest.mark.parametrize("handler", ["signal", "update"])
def test_rule_02_a_savepoint_of_a_handler(handler: str) -> None:
    """A savepoint that a handler opened and whose error it swallows is the main method's saga's, too."""

    @flow
    async def body() -> str:
        async with new_saga() as saga:

            async def work() -> None:
                with contextlib.suppress(ApplicationError):
                    await fails(saga)

            workflow.set_signal_handler("work", work)
            workflow.set_update_handler("work", work)
            await do(saga, "a")
        return "well"

    run = Run(body, **PLUGIN).start()
    run.activate(signal("work") if handler == "signal" else update("work"))
    run.activate(completed("s"))
    run.activate(failed("undo_s", REFUSED))
    run.activate(completed("a"))
    run.autopilot({})
    assert undone(run) == ["undo_s", "undo_a"]
    assert end(run) == "CompensationError"
    run.check()


def test_rule_02_two_that_failed_are_both_told() -> None:
    """The report and the message name each undo that failed, those of two savepoints and of the whole."""
    names = ("taxi", "flight", "hotel")

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "taxi")
            for name in names[1:]:
                with contextlib.suppress(ApplicationError):
                    async with saga.savepoint() as attempt:
                        await do(attempt, name)
                        raise NO_SEAT

    run = Run(body).autopilot({f"undo_{name}": REFUSED for name in names})
    assert end(run) == "CompensationError"
    assert report(run) == ("INCOMPLETE", dict.fromkeys(names, "FAILED"))
    assert undone(run) == ["undo_flight", "undo_hotel", "undo_taxi"]
    assert all(name in run.error.message for name in names)
    run.check()


def test_rule_02_a_savepoint_that_was_undone_spoils_nothing() -> None:
    """A savepoint that failed and was undone is handled: the whole ends well."""

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            with contextlib.suppress(ApplicationError):
                await fails(saga)
            await do(saga, "b")
        return "well"

    run = Run(body).autopilot({})
    assert undone(run) == ["undo_s"]
    assert run.result == "well"
    run.check()


@pytest.mark.filterwarnings("ignore")
def test_rule_02_an_independent_saga_inside_answers_for_itself() -> None:
    """A `Saga` inside a saga is no savepoint: its failed undo is told by its own error, and not by the whole's."""

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            with contextlib.suppress(CompensationError):
                async with new_saga("other") as other:
                    await do(other, "s")
                    raise NO_SEAT
        return "well"

    run = Run(body).autopilot(BEHAVIOURS)
    assert undone(run) == ["undo_s"]
    assert run.result == "well"
    run.check()


# --- a state goes to one (E8) ---


@flow
async def child() -> SagaState:
    async with new_saga("child") as saga:
        await do(saga, "x")
        return saga.detach()


def only(outcome: Any) -> SagaState | None:
    result: SagaState | None = outcome.result
    return result


@both
@pytest.mark.parametrize("second", ["Saga(state=)", "another step", "a step of another saga", "Saga(state=) first"])
def test_rule_02_one_state_has_one_taker(options: Options, second: str) -> None:
    """A state that is joined by `compensation_from=` and given to someone else in the same run is misuse.

    Its steps would be undone twice. Siblings: `Saga(state=)` after it and before it, a second `compensation_from=` in
    the same saga and in another one.
    """
    state = Run(child).autopilot({}).result

    @flow
    async def body() -> str:
        async def join(saga: Saga, number: str) -> SagaState:
            result: SagaState = await saga.execute_child_workflow(
                "Child", id=f"child-{number}", key=number, result_type=SagaState, compensation_from=only
            )
            return result

        async def carry_on(state: SagaState) -> None:
            async with new_saga(state=state) as saga:
                await do(saga, "y")
                raise REFUSED

        async with new_saga() as saga:
            if second == "Saga(state=) first":
                plain: SagaState = await workflow.execute_child_workflow("Child", id="child-0", result_type=SagaState)
                with contextlib.suppress(ApplicationError):
                    await carry_on(plain)
                await join(saga, "1")
                raise REFUSED
            joined = await join(saga, "1")
            if second == "Saga(state=)":
                await carry_on(joined)
            elif second == "another step":
                await join(saga, "2")
            else:
                async with new_saga("another") as another:
                    await join(another, "2")
                    raise REFUSED
            raise REFUSED

    run = Run(body, **options).start()
    while run.closed is None and run.task_failure is None:
        if run.children:
            name = run.children[0].id
            run.activate(child_started(name))
            run.activate(child_completed(name, state))
        else:
            run.activate(completed(run.names[0]))
    assert end(run) == "task: RuntimeError"
    assert "state" in run.commands[-1][2]
    assert undone(run).count("undo_x") <= 1
    run.check()
