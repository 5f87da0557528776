"""`saga.undo(step, key=)`: one earlier step is undone now, and taken off the stack; the scope stays open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Compensation, CompensationError, Saga, SagaState
from temporal_saga.plugin import SagaPlugin
from tests.driver import Run, cancel, cancelled, child_started, completed, failed, signal, timer, update
from tests.rules.workflows import DECLINED, REFUSED, SECOND, cancels, do, end, flow, new_saga, undone

pytestmark = pytest.mark.usefixtures("collected")


def scoped(act: Callable[[Saga], Awaitable[Any]], *, fails: bool = True, **options: Any) -> type[Any]:
    """Return a workflow that does `a`, `b` and `c`, then what is given, and then fails."""

    @flow
    async def body() -> Any:
        async with new_saga(**options) as saga:
            for name in "abc":
                await do(saga, name)
            result = await act(saga)
            if fails:
                raise REFUSED
        return result

    return body


def states(run: Run) -> dict[str, tuple[str, str | None]]:
    """Return what the report says of each step: its outcome, and how far its undo is."""
    (report,) = run.query("saga_report")
    return {step["name"]: (step["state"], step["undo_state"]) for step in report["steps"]}


def message_of(run: Run) -> str:
    assert run.task_failure is not None, end(run)
    return str(run.task_failure[2])


@pytest.mark.parametrize("order", ["reverse", "concurrent"])
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_one_step_is_undone_now_and_never_again(name: str, order: str) -> None:
    """Wherever it lies in the stack; the rest is undone in its order when the scope ends badly."""

    async def act(saga: Saga) -> None:
        await saga.undo(name)
        await do(saga, "d")

    run = Run(scoped(act, order=order)).start()
    for step in "abc":
        run.activate(completed(step))
    assert run.names == [f"undo_{name}"]
    key = next(activity.id for activity in run.scheduled if activity.name == name).rpartition(":")[2]
    assert run.activities[0].id == f"{name}:undo:{key}"
    assert run.activities[0].args == [name]
    assert states(run)[name] == ("APPLIED", "RUNNING")
    assert run.query("saga_report")[0]["state"] == "OPEN"
    run.activate(completed(f"undo_{name}"))
    assert run.names == ["d"]
    assert states(run)[name] == ("APPLIED", "DONE")
    run.autopilot({})
    rest = [f"undo_{each}" for each in "dcba" if each != name]
    assert undone(run) == [f"undo_{name}", *rest]
    assert end(run) == "Refused"
    assert set(states(run).values()) == {("APPLIED", "DONE")}
    run.check()


def test_a_good_end_keeps_the_rest() -> None:
    async def act(saga: Saga) -> str:
        await saga.undo("b")
        return "done"

    run = Run(scoped(act, fails=False)).autopilot({})
    assert undone(run) == ["undo_b"]
    assert run.result == "done"
    (report,) = run.query("saga_report")
    assert report["state"] == "COMPLETED"
    assert states(run) == {"a": ("APPLIED", None), "b": ("APPLIED", "DONE"), "c": ("APPLIED", None)}
    run.check()


def test_the_newest_armed_use_of_a_name_comes_first() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            for item in ("x", "y", "z"):
                await saga.execute_activity("reserve", item, compensation="undo_reserve")
            await saga.undo("reserve")
            await saga.undo("reserve")
            raise REFUSED

    run = Run(body).autopilot({})
    assert [activity.args[0] for activity in run.scheduled if activity.name == "undo_reserve"] == ["z", "y", "x"]
    run.check()


def test_the_newest_is_the_one_that_began_last() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await asyncio.gather(
                *[saga.execute_activity("reserve", item, compensation="undo_reserve", key=item) for item in ("x", "y")]
            )
            await saga.undo("reserve")
            raise REFUSED

    run = Run(body).start()
    run.activate(completed(run.activities[1].id))
    run.activate(completed(run.activities[0].id))
    run.autopilot({})
    assert [activity.args[0] for activity in run.scheduled if activity.name == "undo_reserve"] == ["y", "x"]
    run.check()


def test_a_key_names_one_use() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            for item in ("x", "y", "z"):
                await saga.execute_activity("reserve", item, compensation="undo_reserve", key=item)
            await saga.undo("reserve", key="x")
            await saga.undo("reserve", key="z")
            raise REFUSED

    run = Run(body).autopilot({})
    assert [activity.args[0] for activity in run.scheduled if activity.name == "undo_reserve"] == ["x", "z", "y"]
    run.check()


@pytest.mark.parametrize("name", ["of the call", "a child", "pushed", "undone by a child"])
def test_it_goes_by_the_name_of_the_step(name: str) -> None:
    """Whatever the step is, and whatever undoes it: the name is `step=`, else the registered one."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await saga.execute_activity("act", 1, compensation="undo_act", step="of the call")
            await saga.execute_child_workflow("a child", 1, compensation="undo_child")
            saga.add_compensation("undo_effect", 1, step="pushed")
            await do(saga, "undone by a child", compensation=Compensation.child_workflow("Undo", 1))
            await saga.undo(name)
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("act"))
    run.activate(child_started("a child"))
    run.activate(run._next({}))
    run.activate(run._next({}))
    phase = "push" if name == "pushed" else "undo"
    calls: list[Any] = [*run.activities, *run.children]
    pending = [call.id.rpartition(":")[0] for call in calls]
    assert pending == [f"{name}:{phase}"]
    run.autopilot({})
    ids = [c[1] for c in run.commands if c[0] in ("schedule_activity", "start_child")]
    undos = [id for id in ids if ":do:" not in id]
    assert len(undos) == len(set(undos)) == 4
    run.check()


def test_what_an_undo_is_called_with_is_what_the_unwind_would_call_it_with() -> None:
    """The same command: the saga's options, the summary, the key."""

    async def nothing(_: Saga) -> None: ...

    async def act(saga: Saga) -> None:
        await saga.undo("c")

    options: Any = {"compensation_options": {"start_to_close_timeout": 8 * SECOND, "task_queue": "undo-queue"}}
    found = []
    for each in (nothing, act):
        run = Run(scoped(each, **options), run_id="11111111-2222-4333-8444-555555555555").autopilot({})
        (command,) = [
            command
            for done in run.activations
            for command in done.protos
            if command.schedule_activity.activity_type == "undo_c"
        ]
        command.schedule_activity.ClearField("seq")
        found.append(command)
    assert found[0] == found[1]


# --- protected ---


@pytest.mark.parametrize("times", [1, 2])
def test_a_cancel_of_the_workflow_waits_for_the_undo(times: int) -> None:
    """Nothing interrupts it; the cancel is delivered after it, and unwinds the rest."""

    async def act(saga: Saga) -> None:
        await saga.undo("b")
        await asyncio.sleep(3600)

    run = Run(scoped(act)).start()
    for step in "abc":
        run.activate(completed(step))
    for _ in range(times):
        run.activate(cancel())
    assert run.names == ["undo_b"]
    assert cancels(run) == []
    run.activate(completed("undo_b"))
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_c", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("together", ["cancel first", "undo first"])
def test_a_cancel_that_comes_with_the_end_of_the_undo(together: str) -> None:
    async def act(saga: Saga) -> None:
        await saga.undo("b")
        await asyncio.sleep(3600)

    run = Run(scoped(act)).start()
    for step in "abc":
        run.activate(completed(step))
    events = [cancel(), completed("undo_b")]
    run.activate(*(events if together == "cancel first" else reversed(events)))
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_c", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_a_timeout_around_it_waits_for_the_undo() -> None:
    async def act(saga: Saga) -> str:
        try:
            await asyncio.wait_for(saga.undo("b"), 5)
        except asyncio.TimeoutError:
            return "timed out"
        return "in time"

    run = Run(scoped(act, fails=False)).start()
    for step in "abc":
        run.activate(completed(step))
    run.activate(timer())
    assert run.names == ["undo_b"]
    assert cancels(run) == []
    assert run.closed is None
    run.activate(completed("undo_b"))
    assert run.result == "timed out"
    assert undone(run) == ["undo_b"]
    run.check()


def test_a_task_that_is_cancelled_leaves_the_undo_alone() -> None:
    async def act(saga: Saga) -> str:
        task = asyncio.ensure_future(saga.undo("b"))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        return "cancelled" if task.cancelled() else "done"

    run = Run(scoped(act, fails=False)).start()
    for step in "abc":
        run.activate(completed(step))
    run.activate(timer())
    assert run.names == ["undo_b"]
    assert cancels(run) == []
    run.activate(completed("undo_b"))
    assert run.result == "cancelled"
    run.check()


def test_the_deadline_waits_for_it_too() -> None:
    async def act(saga: Saga) -> None:
        await saga.undo("b")
        await asyncio.sleep(3600)

    run = Run(scoped(act, deadline=5 * SECOND)).start()
    for step in "abc":
        run.activate(completed(step))
    run.activate(timer())
    assert run.names == ["undo_b"]
    run.activate(completed("undo_b"))
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_c", "undo_a"]
    assert end(run) == "SagaDeadlineExceeded"
    run.check()


@pytest.mark.parametrize("how", ["badly", "well"])
def test_a_scope_that_ends_meanwhile_waits_for_it(how: str) -> None:
    """An undo in another task: it is not run a second time, and the older steps wait for it."""

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            for name in "abc":
                await do(saga, name)
            task = asyncio.ensure_future(saga.undo("c"))
            await asyncio.sleep(1)
            if how == "badly":
                raise REFUSED
        await task
        return "well"

    run = Run(body).start()
    for step in "abc":
        run.activate(completed(step))
    run.activate(timer())
    assert run.names == ["undo_c"]
    assert run.closed is None
    run.activate(completed("undo_c"))
    run.autopilot({})
    assert undone(run) == (["undo_c"] if how == "well" else ["undo_c", "undo_b", "undo_a"])
    assert end(run) == ("well" if how == "well" else "Refused")
    run.check()


def test_eviction_leaves_no_trace() -> None:
    async def act(saga: Saga) -> None:
        await saga.undo("b")

    run = Run(scoped(act)).start()
    for step in "abc":
        run.activate(completed(step))
    run.restart()
    assert run.names == ["undo_b"]
    run.activate(completed("undo_b"))
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_c", "undo_a"]
    run.check()


# --- its failure for good (rule 2) ---


def test_rule_02_its_failure_for_good_leaves_the_scope_incomplete() -> None:
    async def act(saga: Saga) -> None:
        await saga.undo("b")

    run = Run(scoped(act)).autopilot({"undo_b": REFUSED})
    assert undone(run) == ["undo_b", "undo_c", "undo_a"]
    assert end(run) == "CompensationError"
    (report,) = run.query("saga_report")
    assert report["state"] == "INCOMPLETE"
    assert states(run)["b"] == ("APPLIED", "FAILED")
    run.check()


@pytest.mark.parametrize("then", ["well", "badly", "cancelled"])
def test_rule_02_whoever_catches_it_the_saga_ends_incomplete(then: str) -> None:
    seen: list[str] = []

    async def act(saga: Saga) -> None:
        seen.clear()
        try:
            await saga.undo("b")
        except CompensationError as error:
            seen.append(str(error.type))
        if then == "cancelled":
            await asyncio.sleep(60)
        if then == "badly":
            raise ApplicationError("later", type="Later")

    run = Run(scoped(act, fails=False)).start()
    for step in "abc":
        run.activate(completed(step))
    run.activate(failed("undo_b", REFUSED))
    assert seen == ["CompensationError"]
    if then == "cancelled":
        run.activate(cancel())
    if run.closed is None:
        run.autopilot({})
    assert end(run) == "CompensationError"
    assert undone(run).count("undo_b") == 1
    (report,) = run.query("saga_report")
    assert report["state"] == "INCOMPLETE"
    if then == "badly":
        assert run.error.cause.type == "Later"
    run.check()


def test_rule_02_one_that_ends_cancelled_has_failed() -> None:
    async def act(saga: Saga) -> None:
        await saga.undo("b")

    run = Run(scoped(act)).start()
    for step in "abc":
        run.activate(completed(step))
    run.activate(cancelled("undo_b"))
    run.autopilot({})
    assert end(run) == "CompensationError"
    assert states(run)["b"] == ("APPLIED", "FAILED")
    run.check()


def test_a_bug_in_it_fails_the_task() -> None:
    def bug() -> None:
        raise TypeError("a bug")

    async def act(saga: Saga) -> None:
        saga.add_callback(bug)
        await saga.undo("bug")

    run = Run(scoped(act)).start()
    for step in "abc":
        run.activate(completed(step))
    assert end(run) == "task: TypeError"
    assert undone(run) == []


# --- what it may undo ---


def test_a_swallowed_failure_may_be_undone_early() -> None:
    async def act(saga: Saga) -> str:
        try:
            await do(saga, "d")
        except ActivityError:
            await saga.undo("d")
        await do(saga, "e")
        return "done"

    run = Run(scoped(act, fails=False)).autopilot({"d:do": REFUSED})
    assert run.history == ["a", "b", "c", "d", "undo_d", "e"]
    assert run.result == "done"
    run.check()


def test_past_the_pivot_what_was_kept_is_not_undone() -> None:
    async def act(saga: Saga) -> None:
        saga.pivot()
        await saga.undo("b")

    run = Run(scoped(act)).start()
    for step in "abc":
        run.activate(completed(step))
    assert end(run) == "task: RuntimeError"
    assert "'b'" in message_of(run)
    assert undone(run) == []
    run.check()


def test_past_the_pivot_what_was_armed_after_it_is() -> None:
    async def act(saga: Saga) -> None:
        saga.pivot()
        await do(saga, "d")
        await do(saga, "e")
        await saga.undo("d")

    run = Run(scoped(act)).autopilot({})
    assert undone(run) == ["undo_d", "undo_e"]
    run.check()


def test_in_a_savepoint() -> None:
    async def act(saga: Saga) -> None:
        async with saga.savepoint() as attempt:
            await do(attempt, "d")
            await do(attempt, "e")
            await attempt.undo("d")
            raise REFUSED

    run = Run(scoped(act)).autopilot({})
    assert undone(run) == ["undo_d", "undo_e", "undo_c", "undo_b", "undo_a"]
    run.check()


def test_what_a_savepoint_has_handed_over() -> None:
    async def act(saga: Saga) -> None:
        async with saga.savepoint() as attempt:
            await do(attempt, "d")
            await do(attempt, "e")
        await saga.undo("d")

    run = Run(scoped(act)).autopilot({})
    assert undone(run) == ["undo_d", "undo_e", "undo_c", "undo_b", "undo_a"]
    run.check()


def test_rule_02_its_failure_in_a_savepoint_is_the_whole_sagas() -> None:
    async def act(saga: Saga) -> str:
        async with saga.savepoint() as attempt:
            await do(attempt, "d")
            try:
                await attempt.undo("d")
            except CompensationError:
                await do(attempt, "e")
        return "done"

    run = Run(scoped(act, fails=False)).autopilot({"undo_d": REFUSED})
    assert end(run) == "CompensationError"
    (report,) = run.query("saga_report")
    assert report["state"] == "INCOMPLETE"
    run.check()


@workflow.defn
class Resumes:
    @workflow.run
    async def run(self, state: SagaState, key: str | None) -> None:
        async with new_saga(state=state) as saga:
            await saga.undo("reserve", key=key)
            raise REFUSED


@pytest.mark.parametrize(("key", "first"), [(None, "z"), ("x", "x"), ("y", "y")])
def test_what_came_with_a_state(key: str | None, first: str) -> None:
    """A cart that continued as new: an item taken out in the next run."""

    @flow
    async def body() -> SagaState:
        async with new_saga() as saga:
            for item in ("x", "y"):
                await saga.execute_activity("reserve", item, compensation="undo_reserve", key=item)
            await saga.execute_activity("reserve", "z", compensation="undo_reserve")
            return saga.detach()

    run = Run(Resumes, Run(body).autopilot({}).result, key).autopilot({})
    items = [activity.args[0] for activity in run.scheduled]
    assert items == [first, *[item for item in "zyx" if item != first]]
    assert end(run) == "Refused"
    run.check()


def test_what_was_undone_is_not_detached() -> None:
    @flow
    async def body() -> SagaState:
        async with new_saga() as saga:
            for item in ("x", "y"):
                await saga.execute_activity("reserve", item, compensation="undo_reserve", key=item)
            await saga.undo("reserve", key="y")
            return saga.detach()

    state = Run(body).autopilot({}).result
    assert len(state["steps"]) == 1
    run = Run(Resumes, state, "x").autopilot({})
    assert [activity.args[0] for activity in run.scheduled] == ["x"]
    gone = Run(Resumes, state, "y").start()
    assert end(gone) == "task: RuntimeError"


# --- what it may not ---


async def never_done(saga: Saga) -> None:
    await saga.undo("never")


async def another_key(saga: Saga) -> None:
    await saga.undo("a", key="another")


async def without_compensation(saga: Saga) -> None:
    await saga.execute_activity("plain", 1)
    await saga.undo("plain")


async def undone_already(saga: Saga) -> None:
    await saga.undo("b")
    await saga.undo("b")


async def without_effect(saga: Saga) -> None:
    try:
        await do(saga, "declined")
    except ActivityError:
        await saga.undo("declined")


NOTHING_ARMED = [never_done, another_key, without_compensation, undone_already, without_effect]


@pytest.mark.parametrize("act", NOTHING_ARMED)
def test_nothing_armed_of_that_name_is_misuse_and_the_message_says_what_is(
    act: Callable[[Saga], Awaitable[None]],
) -> None:
    run = Run(scoped(act)).autopilot({"declined": DECLINED})
    assert end(run) == "task: RuntimeError"
    message = message_of(run)
    assert "undo(" in message
    for name in ("'a'", "'c'"):
        assert name in message
    run.check()


def test_nothing_armed_at_all() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await saga.undo("a")

    run = Run(body).start()
    assert end(run) == "task: RuntimeError"
    assert "'a'" in message_of(run)


def test_a_step_in_flight_is_misuse() -> None:
    """Its outcome is not known: await it first."""

    async def act(saga: Saga) -> None:
        task = asyncio.create_task(do(saga, "d"))
        await asyncio.sleep(0)
        await saga.undo("d")
        await task

    run = Run(scoped(act)).start()
    for step in "abc":
        run.activate(completed(step))
    assert end(run) == "task: RuntimeError"
    assert "'d'" in message_of(run)
    assert "await" in message_of(run)
    assert undone(run) == []


def test_a_key_is_not_free_again() -> None:
    """It names one effect for ever: whoever honors it would take the second step for the first."""

    async def act(saga: Saga) -> None:
        await do(saga, "d", key="k")
        await saga.undo("d", key="k")
        await do(saga, "d", key="k")

    run = Run(scoped(act)).autopilot({})
    assert end(run) == "task: RuntimeError"
    assert "taken for the first" in message_of(run)
    run.check()


def test_a_name_counts_on() -> None:
    async def act(saga: Saga) -> None:
        await saga.undo("c")
        await do(saga, "c")

    run = Run(scoped(act)).autopilot({})
    ids = [activity.id for activity in run.scheduled]
    assert len(set(ids)) == len(ids)
    assert undone(run) == ["undo_c", "undo_c", "undo_b", "undo_a"]
    run.check()


def test_from_code_that_the_unwind_runs_it_is_misuse() -> None:
    """It would wait for itself."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")

            async def callback() -> None:
                await saga.undo("a")

            saga.add_callback(callback)
            raise REFUSED

    run = Run(body).autopilot({})
    assert end(run) == "task: RuntimeError"
    assert undone(run) == []


# --- in a handler ---


@workflow.defn
class Cart:
    """A cart whose items a client adds and takes out."""

    def __init__(self) -> None:
        self.saga = new_saga("cart")
        self.end = ""

    @workflow.run
    async def run(self) -> str:
        async with self.saga:
            await workflow.wait_condition(lambda: self.end != "")
            if self.end == "refused":
                raise REFUSED
        return self.end

    @workflow.update
    async def add(self, item: str) -> str:
        await self.saga.execute_activity("reserve", item, compensation="undo_reserve", key=item)
        return item

    @workflow.update
    async def take_out(self, item: str) -> str:
        await self.saga.undo("reserve", key=item)
        return item

    @workflow.signal
    async def close(self, how: str) -> None:
        self.end = how


def cart(*items: str, **options: Any) -> Run:
    run = Run(Cart, **options).start()
    for item in items:
        run.activate(update("add", item))
        run.activate(completed("reserve"))
    return run


def released(run: Run) -> list[str]:
    return [activity.args[0] for activity in run.scheduled if activity.name == "undo_reserve"]


plugins = pytest.mark.parametrize("plugins", [[], [SagaPlugin()]], ids=["without the plugin", "with it"])


@plugins
@pytest.mark.parametrize("close", ["well", "refused"])
def test_an_item_taken_out_of_a_cart(close: str, plugins: list[Any]) -> None:
    run = cart("apple", "pear", "plum", plugins=plugins)
    run.activate(update("take_out", "pear"))
    assert run.activate(completed("undo_reserve"))[-1] == ("update_completed", "take_out", "pear")
    run.activate(signal("close", close))
    run.autopilot({})
    assert released(run) == (["pear"] if close == "well" else ["pear", "plum", "apple"])
    assert end(run) == ("well" if close == "well" else "Refused")
    run.check()


@plugins
@pytest.mark.parametrize("what", ["never there", "taken out already", "being added"])
def test_in_a_handler_nothing_armed_is_datas_doing(what: str, plugins: list[Any]) -> None:
    """The update fails, and the run goes on."""
    run = cart("apple", "pear", plugins=plugins)
    item = {"never there": "plum", "taken out already": "pear", "being added": "fig"}[what]
    if what == "taken out already":
        run.activate(update("take_out", "pear", update_id="first"))
        run.activate(completed("undo_reserve"))
    if what == "being added":
        run.activate(update("add", "fig"))
    command = run.activate(update("take_out", item))[-1]
    assert command[:2] == ("update_rejected", "take_out"), run.task_failure
    assert isinstance(command[2], ApplicationError)
    assert (command[2].type, command[2].non_retryable) == ("StepNotArmed", True)
    assert "reserve" in command[2].message
    if what == "being added":
        run.activate(completed("reserve"))
    run.activate(signal("close", "refused"))
    run.autopilot({})
    expected = {
        "never there": ["pear", "apple"],
        "taken out already": ["pear", "apple"],
        "being added": ["fig", "pear", "apple"],
    }
    assert released(run) == expected[what]
    assert end(run) == "Refused"
    run.check()


@plugins
def test_in_a_handler_its_failure_fails_the_update_and_the_saga_ends_incomplete(plugins: list[Any]) -> None:
    run = cart("apple", "pear", plugins=plugins)
    run.activate(update("take_out", "pear"))
    command = run.activate(failed("undo_reserve", REFUSED))[-1]
    assert command[:2] == ("update_rejected", "take_out"), run.task_failure
    assert command[2].type == "CompensationError"
    run.activate(signal("close", "refused"))
    run.autopilot({})
    assert released(run) == ["pear", "apple"]
    assert end(run) == "CompensationError"
    run.check()


@plugins
def test_an_unwind_that_begins_while_a_handler_undoes(plugins: list[Any]) -> None:
    """The item is undone once; the older one waits for it."""
    run = cart("apple", "pear", plugins=plugins)
    run.activate(update("take_out", "pear"))
    run.activate(cancel())
    assert released(run) == ["pear"]
    run.activate(completed("undo_reserve"))
    run.autopilot({})
    assert released(run) == ["pear", "apple"]
    assert end(run) == "Cancelled"
    run.check()
