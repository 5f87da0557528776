"""Rule 5: whose a cancel is decides what it does. Each row of the table, alone and when two of them meet.

| whose               | before the pivot                       | after it                                        |
|---------------------|----------------------------------------|-------------------------------------------------|
| the worker's        | leaves no trace                        | leaves no trace (`run.check()` in each test)    |
| the saga's deadline | unwinds, raises `SagaDeadlineExceeded` | the deadline has stopped                        |
| the workflow's      | unwinds                                | held, raised when the saga has ended            |
| a scope's           | unwinds                                | the step runs to its end, then unwinds          |

With the plugin the workflow's cancel is held at the gate, so that it never reaches a task of a saga past its pivot.
Without it, it is held in a step: what was done after the pivot stands all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import CompensationError, Saga, SagaDeadlineExceeded, SagaState
from tests.driver import HANG, Run, cancel, cancelled, child_completed, child_started, completed, failed, signal, timer
from tests.rules.cancelling import PLUGIN, SENDERS, WAYS, background, both, counts, senders, timeout, ways
from tests.rules.workflows import OPTIONS, REFUSED, SECOND, cancels, do, end, flow, new_saga, undone

pytestmark = pytest.mark.usefixtures("collected")

Options = dict[str, Any]
pivots = pytest.mark.parametrize("pivot", [False, True], ids=["before the pivot", "after the pivot"])


def seconds_since_start(run: Run) -> float:
    """Return how long the run took, on its own clock."""
    return (run.now - run.activations[0].request.timestamp.ToDatetime(run.now.tzinfo)).total_seconds()


# --- the table, row by row ---


@both
@ways
@pivots
def test_rule_05_the_sagas_own_deadline(options: Options, way: str, pivot: bool) -> None:
    """The deadline unwinds and is told as one, wherever the body waits; past the pivot it has stopped."""

    @flow
    async def body() -> str:
        async with new_saga(deadline=5 * SECOND) as saga:
            await do(saga, "a")
            if pivot:
                saga.pivot()
            await WAYS[way](do(saga, "b"))
            await WAYS[way](asyncio.sleep(60))
        return "done"

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(timer())
    run.autopilot({})
    assert undone(run) == ([] if pivot else ["undo_b", "undo_a"])
    assert end(run) == ("done" if pivot else "SagaDeadlineExceeded")
    run.check()


@both
@ways
@pivots
def test_rule_05_the_workflows_cancel_in_a_step(options: Options, way: str, pivot: bool) -> None:
    """The workflow's cancel unwinds before the pivot; after it the step runs to its end and nothing is undone."""

    @flow
    async def body() -> str:
        async def work(saga: Saga) -> None:
            await do(saga, "b")
            await do(saga, "c")

        async with new_saga() as saga:
            await do(saga, "a")
            if pivot:
                saga.pivot()
            await WAYS[way](work(saga))
        return "not the end of the run"

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(cancel())
    assert cancels(run) == ([] if pivot else ["b"])
    run.activate(completed("b"))
    run.autopilot({})
    assert undone(run) == ([] if pivot else ["undo_b", "undo_a"])
    if pivot and options:
        assert run.history == ["a", "b", "c"]  # it never came to the task
    assert end(run) == "Cancelled"
    run.check()


@ways
@pytest.mark.parametrize("where", ["a step", "a sleep", "a savepoint"])
def test_rule_05_the_workflows_cancel_is_held_whichever_task_owns_the_saga(way: str, where: str) -> None:
    """With the plugin the workflow's cancel is held past the pivot of a saga that any task of the main method owns.

    Siblings: the main method waits for that task by itself, in a gather, TaskGroup, wait_for, timeout; the saga waits
    in a step, a sleep, a savepoint.
    """

    @flow
    async def body() -> str:
        async def branch() -> None:
            async with new_saga() as saga:
                await do(saga, "a")
                saga.pivot()
                if where == "a step":
                    await do(saga, "b")
                elif where == "a sleep":
                    await asyncio.sleep(60)
                else:
                    async with saga.savepoint() as attempt:
                        await do(attempt, "b")
                        await asyncio.sleep(60)
                await do(saga, "c")

        await WAYS[way](branch())
        return "not the end of the run"

    run = Run(body, **PLUGIN).start()
    run.activate(completed("a"))
    run.activate(cancel())
    assert run.closed is None
    assert cancels(run) == []
    run.autopilot({})
    assert undone(run) == []
    assert run.history[-1] == "c"
    assert end(run) == "Cancelled"
    run.check()


@both
@senders
@ways
@pivots
def test_rule_05_a_scopes_cancel_in_a_step(options: Options, sender: str, way: str, pivot: bool) -> None:
    """A scope's cancel cancels the step before the pivot; after it the step runs to its end; then it is raised.

    Its error is swallowed, so the step is undone at the end, and what was done before it is not.
    """

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            if pivot:
                saga.pivot()
            said = await SENDERS[sender](WAYS[way](do(saga, "b")), 5)
            await do(saga, said)
        return said

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(timer())
    assert cancels(run) == ([] if pivot else ["b"])
    run.activate(completed("b"))
    run.autopilot({})
    assert run.history == ["a", "b", "cut_short", "undo_b"]
    assert run.result == "cut_short"
    run.check()


@both
@senders
@ways
@pivots
def test_rule_05_a_scopes_cancel_around_the_saga(options: Options, sender: str, way: str, pivot: bool) -> None:
    """A scope's cancel unwinds a saga inside, wherever that waits: past the pivot, what was done after it."""

    @flow
    async def body() -> str:
        async def work() -> None:
            async with new_saga() as saga:
                await do(saga, "a")
                if pivot:
                    saga.pivot()
                await do(saga, "b")
                await WAYS[way](asyncio.sleep(60))

        said = await SENDERS[sender](work(), 5)
        await asyncio.sleep(1)  # and no cancel is left over
        return said

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(timer())
    run.autopilot({})
    assert undone(run) == (["undo_b"] if pivot else ["undo_b", "undo_a"])
    assert run.result == "cut_short"
    run.check()


# --- the workflow's cancel, and a scope's after it (E2) ---


@senders
@pytest.mark.parametrize("main", ["waits for the task", "waits for a condition and swallows the cancel"])
@pytest.mark.parametrize("when", ["in one task", "in a task of the saga's"])
def test_rule_05_past_the_pivot_of_a_branchs_saga_a_scopes_cancel_is_not_the_workflows(
    sender: str, main: str, when: str
) -> None:
    """A scope's cancel that comes after the workflow's is a scope's, in a saga that no main method owns.

    Card 1 is tried for too long, and card 2 is taken: card 1 must not stand. Siblings: timeout, wait_for, a TaskGroup's
    failure, task.cancel(), a deadline; in the saga's own task or one that it started; the workflow's cancel would come
    to the saga's task or not.
    """

    @flow
    async def body() -> str:
        async def pay(saga: Saga) -> None:
            said = await SENDERS[sender](do(saga, "card1", key="1"), 3)
            if said == "cut_short":
                await do(saga, "card2", key="2")

        async def branch() -> None:
            async with new_saga() as saga:
                saga.pivot()
                if when == "in one task":
                    await pay(saga)
                else:
                    background(pay(saga))
                    await asyncio.sleep(10)

        if main == "waits for the task":
            await asyncio.gather(branch())
            return "not the end of the run"
        task = background(branch())
        with contextlib.suppress(asyncio.CancelledError):
            await workflow.wait_condition(lambda: False)
        await workflow.execute_activity("after", **OPTIONS)
        await task
        return "swallowed"

    run = Run(body, **PLUGIN).start()
    run.activate(cancel())
    assert run.closed is None
    run.activate(timer())  # card 1 has taken too long
    assert cancels(run) == []
    run.activate(completed("card1"))
    assert run.names == ["card2"]
    run.autopilot({})
    after = [] if main == "waits for the task" else ["after"]  # the cancel came after the saga's end
    assert run.history == ["card1", "card2", "undo_card1", *after]
    assert end(run) == ("swallowed" if after else "Cancelled")
    run.check()


@both
@senders
def test_rule_05_past_the_pivot_of_a_callbacks_saga_a_scopes_cancel_is_not_the_workflows(
    options: Options, sender: str
) -> None:
    """A scope's cancel is a scope's in a saga that a callback of an unwind opens: no false CompensationError."""

    @flow
    async def body() -> None:
        async def callback() -> None:
            async with new_saga("undoing") as inner:
                inner.pivot()
                said = await SENDERS[sender](do(inner, "card1", key="1"), 3)
                await do(inner, said, key="2")

        async with new_saga() as saga:
            saga.add_callback(callback)
            raise REFUSED

    run = Run(body, **options).start()
    run.activate(cancel())
    run.activate(timer())
    run.activate(completed("card1"))
    run.autopilot({})
    assert run.history == ["card1", "cut_short", "undo_card1"]
    assert end(run) == "Refused"
    run.check()


@senders
def test_rule_05_a_scopes_cancel_before_the_workflows_that_is_held(sender: str) -> None:
    """The same two cancels in the other order: the scope's comes first, and the workflow's while its step ends."""

    @flow
    async def body() -> None:
        async def branch() -> None:
            async with new_saga() as saga:
                saga.pivot()
                said = await SENDERS[sender](do(saga, "card1", key="1"), 3)
                await do(saga, said, key="2")

        await asyncio.gather(branch())

    run = Run(body, **PLUGIN).start()
    run.activate(timer())
    run.activate(cancel())
    run.activate(completed("card1"))
    run.autopilot({})
    assert run.history == ["card1", "cut_short", "undo_card1"]
    assert end(run) == "Cancelled"
    run.check()


# --- the gate (with the plugin) ---


def test_rule_05_other_branches_go_on_while_a_saga_past_its_pivot_holds_the_cancel() -> None:
    """The workflow's cancel reaches no task before the saga that holds it has ended; then it reaches all of them."""

    @flow
    async def body() -> None:
        async def pays() -> None:
            async with new_saga("pays") as saga:
                saga.pivot()
                await do(saga, "pay")

        async def others() -> None:
            async with new_saga("others") as saga:
                await do(saga, "a")
                await do(saga, "b")
                await asyncio.sleep(1000)

        await asyncio.gather(pays(), others())

    run = Run(body, **PLUGIN).start()
    run.activate(cancel())
    assert cancels(run) == []
    run.activate(completed("a"))
    assert run.names == ["pay", "b"]
    run.activate(completed("b"))
    run.activate(completed("pay"))
    assert run.names == ["undo_b"]
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_05_the_cancel_is_held_until_the_last_saga_past_its_pivot_has_ended() -> None:
    """Two sagas past their pivots: the end of the first does not let the cancel in."""

    @flow
    async def body() -> None:
        async def pays(name: str) -> None:
            async with new_saga(name) as saga:
                saga.pivot()
                await do(saga, name)
                await do(saga, f"{name}_more")

        await asyncio.gather(pays("x"), pays("y"))

    run = Run(body, **PLUGIN).start()
    run.activate(cancel())
    run.activate(completed("x"))
    run.activate(completed("x_more"))
    assert run.names == ["y"]
    assert cancels(run) == []
    run.activate(completed("y"))
    run.activate(completed("y_more"))
    assert undone(run) == []
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("scope", ["saga", "savepoint"])
def test_rule_05_a_pivot_while_a_cancel_is_held_raises_it(scope: str) -> None:
    """`pivot()` while a cancel is waiting raises it: that saga is not past its point of no return, and unwinds."""

    @flow
    async def body() -> None:
        async def pays() -> None:
            async with new_saga("pays") as saga:
                saga.pivot()
                await do(saga, "pay")

        async def others() -> None:
            async with new_saga("others") as saga:
                await do(saga, "a")
                if scope == "saga":
                    saga.pivot()
                else:
                    async with saga.savepoint() as attempt:
                        await do(attempt, "b")
                        attempt.pivot()
                await do(saga, "never")

        await asyncio.gather(pays(), others())

    run = Run(body, **PLUGIN).start()
    run.activate(cancel())
    run.activate(completed("a"))
    if scope == "savepoint":
        run.activate(completed("b"))
    run.activate(completed(f"undo_{'a' if scope == 'saga' else 'b'}"))
    run.autopilot({})
    assert undone(run) == (["undo_a"] if scope == "saga" else ["undo_b", "undo_a"])
    assert run.history[0] == "pay"
    assert "never" not in run.history
    assert "undo_pay" not in run.history
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("then", ["ends well", "fails", "compensate()", "detach()"])
@pytest.mark.parametrize("owner", ["the main method", "a branch"])
def test_rule_05_a_held_cancel_is_let_in_however_the_saga_ends(then: str, owner: str) -> None:
    """The end of the last saga past its pivot lets the cancel in: it is neither lost nor raised before that end."""

    @flow
    async def body() -> str:
        async def work() -> None:
            with contextlib.suppress(ActivityError):
                async with new_saga() as saga:
                    saga.pivot()
                    await do(saga, "a")
                    await do(saga, "b")
                    if then == "compensate()":
                        await saga.compensate()
                    elif then == "detach()":
                        saga.detach()
            await asyncio.sleep(60)

        if owner == "a branch":
            await asyncio.gather(work())
        else:
            await work()
        return "not the end of the run"

    run = Run(body, **PLUGIN).start()
    run.activate(cancel())
    run.activate(completed("a"))
    run.activate(failed("b", REFUSED) if then == "fails" else completed("b"))
    run.autopilot({})
    assert undone(run) == (["undo_b", "undo_a"] if then in ("fails", "compensate()") else [])
    assert seconds_since_start(run) < 60
    assert end(run) == "Cancelled"
    run.check()


# --- a cancel between two looks (A5) ---


@counts
@both
@pytest.mark.parametrize("looks", [0, 1], ids=["nothing between", "a step between"])
@ways
def test_rule_05_a_swallowed_cancel_does_not_outrank_a_later_deadline(options: Options, looks: int, way: str) -> None:
    """The workflow's cancel that the body swallowed is over: the deadline that passes later is told as one.

    Whether a step in between looked at it makes no difference, nor where the body waits.
    """

    @flow
    async def body() -> None:
        async with new_saga(deadline=6 * SECOND) as saga:
            await do(saga, "a")
            with contextlib.suppress(asyncio.CancelledError):
                await WAYS[way](asyncio.sleep(3))
            if looks:
                await do(saga, "b")
            await WAYS[way](asyncio.sleep(100))

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(cancel())
    if looks:
        run.activate(completed("b"))
    while run.timers and not run.names:
        run.activate(timer())
    assert seconds_since_start(run) == 6
    run.autopilot({})
    assert undone(run) == (["undo_b", "undo_a"] if looks else ["undo_a"])
    assert end(run) == "SagaDeadlineExceeded"
    run.check()


@counts
@both
@pytest.mark.parametrize("swallows", [False, True], ids=["it leaves", "the body swallows it"])
def test_rule_05_a_cancel_that_comes_with_the_start_of_the_run_has_not_come_before_its_saga(
    options: Options, swallows: bool
) -> None:
    """The saga is entered after the workflow was cancelled, and before the cancel reaches the task."""

    @flow
    async def body() -> None:
        async with new_saga(deadline=5 * SECOND) as saga:
            saga.add_compensation("undo_a", step="a")
            with contextlib.suppress(asyncio.CancelledError) if swallows else contextlib.nullcontext():
                await asyncio.sleep(60)
            await asyncio.sleep(60)

    run = Run(body, **options).start(cancel())
    run.autopilot({})
    assert undone(run) == ["undo_a"]
    assert end(run) == ("SagaDeadlineExceeded" if swallows else "Cancelled")
    run.check()


@both
@pytest.mark.parametrize("depth", [1, 2])
def test_rule_05_a_deadline_that_passes_in_an_unwind_leaves_a_cancel_that_a_plain_activity_has_met(
    options: Options, depth: int
) -> None:
    """The workflow's cancel leaves the body as an ActivityError. The saga raises it, not `SagaDeadlineExceeded`."""

    async def within(saga: Saga, depth: int) -> None:
        async with saga.savepoint() as attempt:
            if depth:
                await within(attempt, depth - 1)
            else:
                attempt.add_compensation("undo_a", step="a")
                await workflow.execute_activity("plain", **OPTIONS)

    @flow
    async def body() -> str:
        with contextlib.suppress(ApplicationError):
            async with new_saga(deadline=5 * SECOND) as saga:
                await within(saga, depth - 1)
        await asyncio.sleep(60)
        return "not reached"

    run = Run(body, **options).start()
    run.activate(cancel())
    assert run.names == ["undo_a"]
    run.activate(timer())
    run.activate(completed("undo_a"))
    assert end(run) == "Cancelled"
    run.check()


@counts
@both
@pytest.mark.parametrize("sender", ["timeout", "an outer deadline"])  # the others pass the workflow's cancel on
@pytest.mark.parametrize("between", ["a sleep", "a step", "nothing"])
def test_rule_05_a_scopes_cancel_kept_by_an_unwind_is_not_the_swallowed_one(
    options: Options, sender: str, between: str
) -> None:
    """A scope's cancel that comes during the unwind goes to its sender, and is not delivered again as the workflow's.

    The error went straight to the sender, who counted its cancel: outside of it nobody is cancelled.
    """

    @flow
    async def body() -> str:
        async def work() -> None:
            async with new_saga() as saga:
                await do(saga, "a")
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1000)
                if between == "a sleep":
                    await asyncio.sleep(3)
                elif between == "a step":
                    await do(saga, "b")
                raise REFUSED

        with contextlib.suppress(ApplicationError):
            await SENDERS[sender](work(), 8)
        await asyncio.sleep(1)
        await asyncio.sleep(1)
        return "slept"

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(cancel())
    if between == "a sleep":
        run.activate(timer())
    elif between == "a step":
        run.activate(completed("b"))
    run.activate(timer())
    assert seconds_since_start(run) == 8
    run.autopilot({})
    assert undone(run) == (["undo_b", "undo_a"] if between == "a step" else ["undo_a"])
    assert run.result == "slept"
    run.check()


# --- two cancels that meet (E4) ---


@counts
@both
@senders
@pytest.mark.parametrize("later", [0, 0.001, 1], ids=["together", "together, the deadline first", "while it unwinds"])
@pytest.mark.parametrize("scope", ["a sleep", "a step", "a savepoint"])
def test_rule_05_a_deadline_does_not_swallow_the_cancel_of_a_scope_around_it(
    options: Options, sender: str, later: float, scope: str
) -> None:
    """A scope that cancels together with the deadline of a saga inside still ends what is in it.

    Siblings: timeout, wait_for, TaskGroup, task.cancel(), another deadline (two nested that pass together).
    """

    @flow
    async def body() -> str:
        async def work() -> None:
            with contextlib.suppress(SagaDeadlineExceeded):
                async with new_saga("inner", deadline=5 * SECOND) as saga:
                    await do(saga, "a")
                    if scope == "a sleep":
                        await asyncio.sleep(1000)
                    elif scope == "a step":
                        await do(saga, "b")
                    else:
                        async with saga.savepoint() as attempt:
                            await do(attempt, "b")
            await asyncio.sleep(3600)

        return await SENDERS[sender](work(), 5 + later)

    run = Run(body, **options).start()
    run.activate(completed("a"))
    if later < 1:
        run.activate(timer(), timer())
    else:
        run.activate(timer())
        if scope != "a sleep":
            run.activate(cancelled("b"))
        run.activate(timer())
    run.autopilot({"b:do": HANG})
    assert undone(run) == (["undo_a"] if scope == "a sleep" else ["undo_b", "undo_a"])
    assert run.result == "cut_short"
    assert seconds_since_start(run) < 60
    run.check()


@counts
@both
@senders
@pytest.mark.parametrize("how", ["fails", "compensate()", "a swallowed step", "an undo fails", "two deep", "twice"])
def test_rule_05_a_cancel_kept_by_an_unwind_reaches_who_counts_on_it(options: Options, sender: str, how: str) -> None:
    """A scope that cancels while a saga inside unwinds ends what is in it, though the saga's error is caught inside.

    Siblings: every sender; an unwind by a failure, `compensate()`, of a swallowed step at a good end, an incomplete
    one, one in a saga within, two after each other.
    """

    @flow
    async def body() -> str:
        async def inner(name: str) -> None:
            async with new_saga(name) as saga:
                if how == "a swallowed step":
                    with contextlib.suppress(ActivityError):
                        await do(saga, name)
                    return
                await do(saga, name)
                if how == "compensate()":
                    await saga.compensate()
                else:
                    raise REFUSED

        async def work() -> None:
            with contextlib.suppress(ApplicationError):
                if how == "two deep":
                    async with new_saga("outer"):
                        await inner("a")
                else:
                    await inner("a")
            if how == "twice":
                with contextlib.suppress(ApplicationError):
                    await inner("b")
            await asyncio.sleep(3600)

        return await SENDERS[sender](work(), 5)

    run = Run(body, **options).start()
    run.activate(failed("a", REFUSED) if how == "a swallowed step" else completed("a"))
    assert run.names == ["undo_a"]
    run.activate(timer())
    assert cancels(run) == []
    run.activate(failed("undo_a", REFUSED) if how == "an undo fails" else completed("undo_a"))
    run.autopilot({"b:do": HANG})
    assert run.result == "cut_short"
    assert seconds_since_start(run) < 60
    run.check()


@counts
@both
@senders
@pytest.mark.parametrize("undo", ["succeeds", "fails"])
def test_rule_05_nobody_gets_a_cancel_that_its_sender_has_counted(options: Options, sender: str, undo: str) -> None:
    """The error that goes straight on to the scope which cancelled meanwhile takes the cancel along: none is left.

    On Python 3.11 and 3.12 `uncancel()` does not take back a cancel that waits for the next await.
    """

    @flow
    async def body() -> list[Any]:
        async def work() -> None:
            async with new_saga() as saga:
                await do(saga, "a")
                raise REFUSED

        with contextlib.suppress(ApplicationError, asyncio.TimeoutError):
            await SENDERS[sender](work(), 5)
        task: Any = asyncio.current_task()
        # Before Python 3.13 a TaskGroup itself leaves its own cancel of the parent in the count.
        cancelling = 0 if sender == "task group" else task.cancelling()
        await asyncio.sleep(1)
        await asyncio.sleep(1)
        return ["slept", cancelling]

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(timer())
    run.autopilot({"undo_a": None if undo == "succeeds" else REFUSED})
    assert run.result == ["slept", 0]
    run.check()


@both
@ways
def test_rule_05_the_workflows_cancel_kept_by_an_unwind_in_a_branch(options: Options, way: str) -> None:
    """The workflow's cancel that comes while a branch's saga unwinds meets that branch at its next await."""

    @flow
    async def body() -> str:
        async def work() -> None:
            with contextlib.suppress(ApplicationError):
                async with new_saga() as saga:
                    await do(saga, "a")
                    raise REFUSED
            await asyncio.sleep(3600)

        await WAYS[way](work())
        return "not the end of the run"

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("undo_a"))
    run.autopilot({})
    assert end(run) == "Cancelled"
    assert seconds_since_start(run) < 60
    run.check()


@counts
@both
@pytest.mark.parametrize("first", ["cancel", "deadline"])
def test_rule_05_the_workflows_cancel_wins_over_a_deadline_in_the_same_activation(options: Options, first: str) -> None:
    """A workflow's cancel in the activation of the deadline wins, in whichever order they are told."""

    @flow
    async def body() -> None:
        async with new_saga(deadline=5 * SECOND) as saga:
            await do(saga, "a")
            await asyncio.sleep(1000)

    run = Run(body, **options).start()
    run.activate(completed("a"))
    events = [cancel(), timer()]
    run.activate(*(events if first == "cancel" else reversed(events)))
    run.autopilot({})
    assert undone(run) == ["undo_a"]
    assert end(run) == "Cancelled"
    run.check()


# --- a result that comes with a cancel (E1) ---


@flow
async def child() -> SagaState:
    async with new_saga("child") as saga:
        await do(saga, "x")
        await do(saga, "y")
        return saga.detach()


@both
@senders
@pytest.mark.parametrize("then", ["ends well", "pivots", "fails", "leaves a savepoint"])
def test_rule_07_a_childs_detached_state_that_comes_with_a_cancel_is_kept(
    options: Options, sender: str, then: str
) -> None:
    """A swallowed step is undone at the latest when its scope ends, and so is what a child did in its place.

    Siblings: every sender of the cancel; the scope ends well, pivots first, fails, or is a savepoint.
    """
    state = Run(child).autopilot({}).result

    @flow
    async def body() -> str:
        async def work(saga: Saga) -> None:
            await saga.execute_child_workflow(
                "Child", result_type=SagaState, compensation_from=lambda outcome: outcome.result
            )

        async with new_saga() as saga:
            if then == "leaves a savepoint":
                async with saga.savepoint() as attempt:
                    await SENDERS[sender](work(attempt), 5)
            else:
                await SENDERS[sender](work(saga), 5)
            await do(saga, "other")
            if then == "pivots":
                saga.pivot()
            if then == "fails":
                raise REFUSED
        return "done"

    run = Run(body, **options).start()
    run.activate(child_started("Child"))
    run.activate(timer())
    run.activate(child_completed("Child", state))
    run.autopilot({})
    assert undone(run) == [*(["undo_other"] if then == "fails" else []), "undo_y", "undo_x"]
    assert end(run) == ("Refused" if then == "fails" else "done")
    run.check()


def test_rule_07_a_childs_detached_state_that_comes_with_the_workflows_cancel_which_is_swallowed() -> None:
    """The same where the body swallows the workflow's own cancel."""
    state = Run(child).autopilot({}).result

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            with contextlib.suppress(asyncio.CancelledError):
                await saga.execute_child_workflow(
                    "Child", result_type=SagaState, compensation_from=lambda outcome: outcome.result
                )
            await do(saga, "other")
        return "done"

    run = Run(body).start()
    run.activate(child_started("Child"))
    run.activate(cancel())
    run.activate(child_completed("Child", state))
    run.autopilot({})
    assert undone(run) == ["undo_y", "undo_x"]
    assert end(run) == "done"
    run.check()


# --- the handler that ends with a cancel (E3) ---


@both
@pytest.mark.parametrize("waits", ["for a task", "for a future", "in a saga's step"])
@pytest.mark.parametrize("undo", ["fails", "succeeds"])
def test_rule_12_a_handlers_cancellation_does_not_replace_the_main_methods_error(
    options: Options, waits: str, undo: str
) -> None:
    """A signal handler that ends cancelled, as the main method fails, does not close the run as Cancelled.

    Siblings: the handler waits for a task or a future that the main method cancels, or was held by the saga.
    """

    @flow
    async def body() -> None:
        helper = background(asyncio.sleep(1000))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def handler() -> None:
            if waits == "for a task":
                await helper
            elif waits == "for a future":
                await future
            else:
                await do(saga, "h")

        workflow.set_signal_handler("wait", handler)
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                await asyncio.sleep(1000)
        finally:
            helper.cancel()
            future.cancel()

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(signal("wait"))
    run.activate(cancel())
    run.autopilot({"h:do": HANG, "undo_a": REFUSED if undo == "fails" else None})
    assert "undo_a" in undone(run)
    assert end(run) == ("CompensationError" if undo == "fails" else "Cancelled")
    run.check()


# --- a held cancel, detached (E7) ---


@workflow.defn
class GoesOn:
    """Carries on with a state, some runs long."""

    @workflow.run
    async def run(self, state: SagaState, hops: int) -> str:
        async with new_saga(state=state) as saga:
            if hops:
                workflow.continue_as_new(args=[saga.detach(), hops - 1])
            await do(saga, "c")
            await do(saga, "d")
        return "not the end of the run"


@both
@pytest.mark.parametrize("hops", [0, 1])
@pytest.mark.parametrize("where", ["in the scope", "after the scope", "in a branch"])
def test_rule_05_a_held_cancel_outlives_detach_and_continue_as_new(options: Options, hops: int, where: str) -> None:
    """The workflow's cancel that is held past the pivot is not lost where no await lies before continue-as-new.

    It is raised in this run, which then ends Cancelled, or held in the next one until that saga has ended. The next run
    was not cancelled itself, so that the SDK takes the cancel for a failure.
    """

    @flow
    async def body() -> None:
        async def work(saga: Saga) -> None:
            await do(saga, "b")

        async with new_saga() as saga:
            await do(saga, "a")
            saga.pivot()
            if where == "in a branch":
                await asyncio.gather(work(saga))
            else:
                await work(saga)
            state = saga.detach()
            if where == "in the scope":
                workflow.continue_as_new(args=[state, hops])
        workflow.continue_as_new(args=[state, hops])

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("b"))
    run.check()
    expected = "Cancelled"
    while run.closed is not None and run.closed[0] == "continue_as_new":
        run = Run(GoesOn, *run.closed[1], **options).autopilot({})
        run.check()
        expected = "CancelledError"
    assert undone(run) == []
    assert cancels(run) == []
    assert end(run) == expected


@both
def test_rule_05_a_state_without_a_held_cancel_goes_on_uncancelled(options: Options) -> None:
    """A cancel that was raised in the run that detached, and swallowed there, does not come again in the next."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)
            saga.pivot()
            await do(saga, "b")
            workflow.continue_as_new(args=[saga.detach(), 0])

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("b"))
    assert run.closed is not None
    assert run.closed[0] == "continue_as_new"
    following = Run(GoesOn, *run.closed[1], **options).autopilot({})
    assert following.result == "not the end of the run"
    following.check()


def test_rule_05_the_cancel_of_a_child_stays_with_the_child() -> None:
    """A child that was cancelled past its pivot hands its entries over, and not its cancel."""

    @flow
    async def cancelled_child() -> SagaState:
        async with new_saga("child") as saga:
            saga.pivot()
            await do(saga, "x")
            return saga.detach()

    run = Run(cancelled_child, **PLUGIN).start()
    run.activate(cancel())
    run.activate(completed("x"))
    if run.closed == ("cancel",):
        return  # raised in the child: there is no state that could carry it
    state = run.result

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await saga.execute_child_workflow(
                "Child", result_type=SagaState, compensation_from=lambda outcome: outcome.result
            )
            await do(saga, "a")
            await asyncio.sleep(1)
        return "done"

    parent = Run(body, **PLUGIN).start()
    parent.activate(child_started("Child"))
    parent.activate(child_completed("Child", state))
    parent.autopilot({})
    assert parent.result == "done"
    assert undone(parent) == []
    parent.check()


# --- the workflow's cancel met by what is no step (E10) ---


async def by_a_plain_activity() -> None:
    await workflow.execute_activity("plain", **OPTIONS)  # TRY_CANCEL: an ActivityError whose cause is the cancel


async def by_a_plain_child() -> None:
    await workflow.execute_child_workflow("Plain", id="plain")


async def by_a_gather() -> None:
    await asyncio.gather(by_a_plain_activity(), asyncio.sleep(1000))


async def by_a_sleep() -> None:
    await asyncio.sleep(1000)


@both
@pytest.mark.parametrize("met", [by_a_plain_activity, by_a_plain_child, by_a_gather, by_a_sleep])
@pytest.mark.parametrize("depth", [1, 2])
def test_rule_05_the_workflows_cancel_is_raised_by_a_savepoint_whose_undo_failed(
    options: Options, met: Callable[[], Coroutine[Any, Any, None]], depth: int
) -> None:
    """A savepoint raises the cancel, whatever met it: it does not end in an `except ApplicationError` around it.

    Siblings: a plain activity, a plain child, one in a gather, a sleep; a savepoint in a savepoint.
    """

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            try:
                async with saga.savepoint() as attempt:
                    if depth == 1:
                        await do(attempt, "b")
                        await met()
                    else:
                        async with attempt.savepoint() as inner:
                            await do(inner, "b")
                            await met()
            except ApplicationError:
                await do(saga, "another_way")

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    if met is by_a_plain_child:
        run.activate(child_started("Plain"))
    run.activate(cancel())
    run.autopilot({"undo_b": REFUSED, "Plain": HANG})
    assert undone(run) == ["undo_b", "undo_a"]
    assert "another_way" not in run.history
    assert end(run) == "CompensationError"  # and what stands is told
    run.check()


@both
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cancels", ["the workflow's", "the deadline's", "both"])
def test_rule_08_the_cancel_that_a_savepoint_raises_does_not_hide_an_incomplete_saga_in_it(
    options: Options, depth: int, cancels: str
) -> None:
    """`CompensationError` leaves the saga around: the effects of an independent saga in a savepoint of it stand.

    Siblings: a savepoint in a savepoint; the cancel of the deadline; one after the other.
    """

    async def independent() -> None:
        async with new_saga("inner") as inner:
            await do(inner, "b")
            raise ApplicationError("no more", non_retryable=True)

    @flow
    async def body() -> None:
        async with new_saga(deadline=None if cancels == "the workflow's" else timedelta(seconds=60)) as saga:
            await do(saga, "a")
            async with saga.savepoint() as attempt:
                await do(attempt, "c")
                if depth == 1:
                    await independent()
                else:
                    async with attempt.savepoint() as deeper:
                        await do(deeper, "d")
                        await independent()

    run = Run(body, **options).start()
    for name in ["a", "c", *(["d"] if depth == 2 else []), "b"]:
        run.activate(completed(name))
    run.activate(timer() if cancels == "the deadline's" else cancel())
    run.activate(failed("undo_b", REFUSED))
    if cancels == "both":
        run.activate(timer())
    run.autopilot({})
    assert undone(run) == ["undo_b", *(["undo_d"] if depth == 2 else []), "undo_c", "undo_a"]
    assert end(run) == "CompensationError"
    run.check()


@both
@pytest.mark.parametrize("raises", ["the body", "compensate()"])
def test_rule_05_a_cancel_that_comes_with_the_start_of_the_run_outlives_an_unwind(
    options: Options, raises: str
) -> None:
    """It has come before the scope was entered, and reaches the task during the unwind: then the next await gets it."""

    @flow
    async def body() -> str:
        with contextlib.suppress(ApplicationError):
            async with new_saga() as saga:
                saga.add_compensation("undo", step="a")
                if raises == "the body":
                    raise ApplicationError("no more", non_retryable=True)
                await saga.compensate()
        await asyncio.sleep(60)
        return "not reached"

    run = Run(body, **options).start(cancel())
    run.autopilot({})
    assert end(run) == "Cancelled"
    run.check()


@counts
@both
@pytest.mark.parametrize("by", ["itself", *(["a TaskGroup"] if sys.version_info >= (3, 13) else [])])
@pytest.mark.parametrize("has_step", [False, True])
def test_rule_05_a_cancel_that_the_body_has_not_met_comes_after_the_unwind(
    options: Options, has_step: bool, by: str
) -> None:
    """The cancel was sent before the unwind began, and the body awaited nothing since: the next await gets it.

    From Python 3.13 on, a `TaskGroup` that has met a cancel and raises errors sends the cancel to its task again.
    """

    async def fails(parent: Any) -> None:
        await asyncio.sleep(1)
        parent.cancel()
        raise REFUSED

    async def cancels_itself(saga: Saga) -> None:
        if has_step:
            saga.add_compensation("undo_a", step="a")
        current: Any = asyncio.current_task()
        if by == "itself":
            current.cancel()
            raise REFUSED
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
            group.create_task(fails(current))

    async def task() -> str:
        try:
            async with new_saga() as saga:
                await cancels_itself(saga)
        except ApplicationError:
            pass
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "cancelled"
        return "not cancelled"

    @flow
    async def body() -> str:
        result: str = await background(task())
        return result

    run = Run(body, **options).start()
    run.autopilot({})
    assert undone(run) == (["undo_a"] if has_step else [])
    assert end(run) == "cancelled"
    run.check()


@both
@pytest.mark.parametrize("when", ["before the callback", "with its start", "during its saga"])
@pytest.mark.parametrize("pivot", [False, True], ids=["before the pivot", "after the pivot"])
def test_rule_05_a_saga_in_an_unwind_passes_its_pivot_though_a_cancel_waits(
    options: Options, when: str, pivot: bool
) -> None:
    """No cancel interrupts an unwind: what a callback does in a saga of its own is done to its end."""

    async def put_back() -> None:
        async with new_saga("inner") as inner:
            await do(inner, "b")
            inner.pivot()
            await do(inner, "c")

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            if pivot:
                saga.pivot()
            saga.add_callback(put_back)
            saga.add_compensation("undo_a", step="a")
            raise REFUSED

    run = Run(body, **options).start()
    assert run.names == ["undo_a"]
    if when == "before the callback":
        run.activate(cancel())
    run.activate(completed("undo_a"), *([cancel()] if when == "with its start" else []))
    assert run.names == ["b"]
    run.activate(completed("b"), *([cancel()] if when == "during its saga" else []))
    assert run.names == ["c"]
    run.activate(completed("c"))
    assert run.history == ["undo_a", "b", "c"]
    assert end(run) in ("Refused", "Cancelled")
    run.check()


@counts
def test_rule_05_a_pivot_raises_a_cancel_that_comes_with_the_start_of_the_run() -> None:
    """The saga is not past the point of no return yet: everything is undone, and not half of it."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            saga.add_compensation("undo_z", step="z")
            saga.pivot()
            await do(saga, "b")
            await do(saga, "c")

    run = Run(body, **PLUGIN).start(cancel())
    run.autopilot({})
    assert run.history == ["undo_z"]
    assert end(run) == "Cancelled"
    run.check()


@both
@ways
def test_rule_05_a_cleanup_in_the_activation_of_the_cancel_passes_its_pivot(options: Options, way: str) -> None:
    """The main method has met the cancel. A saga that cleans up in another task gets none."""

    async def clean_up() -> None:
        async with new_saga() as saga:
            saga.pivot()
            await do(saga, "a")

    @flow
    async def body() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await WAYS[way](clean_up())
        return "cleaned up"

    run = Run(body, **options).start()
    run.activate(cancel())
    run.activate(completed("a"))
    assert end(run) == "cleaned up"
    run.check()


@both
@pytest.mark.parametrize("cancel_first", [False, True])
def test_rule_05_a_cancel_that_comes_with_the_deadline_outlives_the_unwind_of_a_saga_inside(
    options: Options, cancel_first: bool
) -> None:
    """A saga inside keeps both. The code behind the sagas gets the workflow's."""

    @flow
    async def body() -> str:
        with contextlib.suppress(ApplicationError):
            async with new_saga(deadline=5 * SECOND) as saga:
                await do(saga, "a")
                async with new_saga("inside") as inside:
                    await do(inside, "b")
                    raise REFUSED
        await asyncio.sleep(60)
        return "not reached"

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    for event in (cancel(), timer()) if cancel_first else (timer(), cancel()):
        run.activate(event)
    run.activate(completed("undo_b"))
    run.activate(completed("undo_a"))
    assert end(run) == "Cancelled"
    run.check()


@counts
@both
@pytest.mark.parametrize("later", [False, True], ids=["in the same activation", "later"])
@pytest.mark.parametrize("how", ["uncancel()", "a task"])
def test_rule_05_a_cancel_that_was_swallowed_before_the_saga_does_not_hide_a_timeouts(
    options: Options, how: str, later: bool
) -> None:
    """The body has swallowed the workflow's cancel before it enters the saga: what comes then is the timeout's."""

    async def clean_up() -> None:
        async with timeout(3), new_saga(deadline=5 * SECOND) as saga:
            saga.add_compensation("undo_z", step="z")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            await asyncio.sleep(60)

    @flow
    async def body() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if how == "uncancel()":
                current: Any = asyncio.current_task()
                current.uncancel()
        if later:
            await asyncio.sleep(0.001)
        try:
            await (clean_up() if how == "uncancel()" else background(clean_up()))
        except asyncio.TimeoutError:
            return "timed out"
        return "not reached"

    run = Run(body, **options).start()
    run.activate(cancel())
    run.autopilot({})
    assert undone(run) == ["undo_z"]
    assert end(run) == "timed out"
    run.check()


# --- a good end that turns bad (E11) ---


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("order", ["reverse", "concurrent"])
def test_rule_08_an_error_is_not_among_its_own_causes(order: Any, depth: int) -> None:
    """No failure could be made of it: the workflow task would fail again and again, and the run would never close.

    The workflow's cancel comes while a savepoint undoes what its body has swallowed, and an undo has failed inside.
    The fuzzer looks at each error that leaves a scope (`has_circle`).
    """

    async def within(saga: Saga, depth: int) -> None:
        async with saga.savepoint() as attempt:
            if depth:
                await within(attempt, depth - 1)
            else:
                with contextlib.suppress(ActivityError):
                    await do(attempt, "a")
                with contextlib.suppress(CompensationError):
                    async with attempt.savepoint() as inner:
                        await do(inner, "b")

    @flow
    async def body() -> None:
        async with new_saga(order=order) as saga:
            await within(saga, depth - 1)

    run = Run(body).start()
    for end_of in (failed("a", REFUSED), failed("b", REFUSED), failed("undo_b", REFUSED)):
        run.activate(end_of)
    run.activate(cancel())
    run.activate(completed("undo_a"))
    assert run.task_failure is None
    assert end(run) == "CompensationError"
    run.check()


@pytest.mark.parametrize("what", ["undo()", "a savepoint"])
def test_rule_01_a_good_end_after_a_failed_undo_keeps_the_order(what: str) -> None:
    """After an undo that failed for good the saga ends badly: what the body swallowed is undone in its turn."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            with contextlib.suppress(ActivityError):
                await do(saga, "a")
            await do(saga, "b")
            with contextlib.suppress(ApplicationError):
                if what == "undo()":
                    await do(saga, "c")
                    await saga.undo("c")
                else:
                    async with saga.savepoint() as attempt:
                        await do(attempt, "c")
                        raise ApplicationError("no more", non_retryable=True)

    run = Run(body).start()
    run.autopilot({"a:do": REFUSED, "undo_c": REFUSED})
    assert undone(run) == ["undo_c", "undo_b", "undo_a"]
    assert end(run) == "CompensationError"
    run.check()


@pytest.mark.parametrize("scope", ["saga", "savepoint"])
@pytest.mark.parametrize("order", ["reverse", "concurrent"])
@pytest.mark.parametrize("why", ["cancel", "its undo fails", *(["timeout"] if sys.version_info >= (3, 11) else [])])
def test_rule_01_a_good_end_that_turns_bad_keeps_the_order(scope: str, order: Any, why: str) -> None:
    """Compensations run in reverse order, those of swallowed steps among the others, once the scope ends badly.

    Siblings: the workflow's cancel, a timeout's, an undo that fails for good; a saga, a savepoint.
    """

    @flow
    async def body() -> str:
        async def steps(saga: Saga) -> None:
            with contextlib.suppress(ActivityError):
                await do(saga, "a")
            await do(saga, "b")
            with contextlib.suppress(ActivityError):
                await do(saga, "c")

        async def work() -> None:
            async with new_saga(order=order) as saga:
                if scope == "saga":
                    await steps(saga)
                else:
                    async with saga.savepoint() as attempt:
                        await steps(attempt)

        if why != "timeout":
            await work()
            return "not the end of the run"
        try:
            async with timeout(5):
                await work()
        except asyncio.TimeoutError:
            return "timed out"
        return "not the end of the run"

    run = Run(body).start()
    run.activate(failed("a", REFUSED))
    run.activate(completed("b"))
    run.activate(failed("c", REFUSED))
    assert run.names == ["undo_c"]
    if why == "timeout":
        run.activate(timer())
    elif why == "cancel":
        run.activate(cancel())
    run.autopilot({"undo_c": REFUSED if why == "its undo fails" else None})
    assert undone(run) == ["undo_c", "undo_b", "undo_a"]
    assert end(run) == {"cancel": "Cancelled", "timeout": "timed out"}.get(why, "CompensationError")
    run.check()


# --- a pivot that a cancel passes by (E12) ---


@both
@pytest.mark.parametrize("passing", ["the deadline", "the workflow's cancel", "a failure", "a timeout"])
@pytest.mark.parametrize("scope", ["saga", "savepoint"])
def test_rule_08_what_passes_a_pivot_in_a_finally_is_told_as_what_it_is(
    options: Options, passing: str, scope: str
) -> None:
    """`pivot()` in a `finally` keeps what was done; what passes through it leaves the scope under its own name."""
    if passing == "a timeout" and sys.version_info < (3, 11):
        pytest.skip("asyncio.timeout came with 3.11")

    @flow
    async def body() -> str:
        async def work() -> None:
            async with new_saga(deadline=5 * SECOND if passing == "the deadline" else None) as saga:
                await do(saga, "a")
                async with saga.savepoint() if scope == "savepoint" else contextlib.nullcontext(saga) as inner:
                    try:
                        await asyncio.sleep(100)
                        raise REFUSED
                    finally:
                        inner.pivot()

        if passing != "a timeout":
            await work()
            return "not the end of the run"
        try:
            async with timeout(5):
                await work()
        except asyncio.TimeoutError:
            return "TimeoutError"
        return "not the end of the run"

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(cancel() if passing == "the workflow's cancel" else timer())
    run.autopilot({})
    assert undone(run) == []
    assert (
        end(run)
        == {
            "the deadline": "SagaDeadlineExceeded",
            "the workflow's cancel": "Cancelled",
            "a failure": "Refused",
            "a timeout": "TimeoutError",
        }[passing]
    )
    run.check()


@both
def test_rule_05_a_compensation_error_keeps_the_deadline_as_its_cause(options: Options) -> None:
    """A deadline's unwind that is incomplete says so, and the deadline is the cause: not a bare cancel."""

    @flow
    async def body() -> str:
        try:
            async with new_saga(deadline=timedelta(seconds=5)) as saga:
                await do(saga, "a")
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3)
                await asyncio.sleep(100)
        except CompensationError as error:
            return type(error.__cause__).__name__
        return "well"

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(timer())
    run.autopilot({"undo_a": REFUSED})
    assert run.result == "SagaDeadlineExceeded"
    run.check()
