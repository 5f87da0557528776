"""Details that two people would build differently: pivot, deadline, detach, options, children, parallel steps."""

# ruff: noqa: PT017 (in workflow code, where `pytest.raises` would take an eviction for what it expects)

from __future__ import annotations

import asyncio
import base64
import dataclasses
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from temporalio import activity, workflow
from temporalio.bridge.proto.child_workflow import ParentClosePolicy
from temporalio.bridge.proto.workflow_commands import WorkflowCommand
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Compensation, Saga, SagaState, presets
from temporal_saga._state import VERSION
from tests.driver import Run, cancel, cancelled, child_completed, child_started, completed, failed, reset, signal, timer
from tests.rules.workflows import DECLINED, OPTIONS, REFUSED, SECOND, cancels, do, end, flow, new_saga, undone

pytestmark = pytest.mark.usefixtures("collected")

# --- pivot ---


def pivoted(then: Callable[[Saga], Any]) -> type[Any]:
    """Return a workflow that does `a`, passes the pivot, then does `then`."""

    @flow
    async def body() -> Any:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.pivot()
            return await then(saga)

    return body


def test_pivot_keeps_what_succeeded_and_undoes_what_came_later() -> None:
    async def then(saga: Saga) -> None:
        await do(saga, "b")
        await do(saga, "c")

    run = Run(pivoted(then)).autopilot({"c:do": REFUSED})
    assert undone(run) == ["undo_c", "undo_b"]
    assert end(run) == "ActivityError"
    (report,) = run.query("saga_report")
    assert [(s["name"], s["undo"], s["undo_state"]) for s in report["steps"]] == [
        ("a", None, None),
        ("b", "undo_b", "DONE"),
        ("c", "undo_c", "DONE"),
    ]
    run.check()


@pytest.mark.parametrize("where", ["a step", "a sleep", "a savepoint"])
def test_pivot_a_cancel_is_held_until_the_scope_ends(where: str) -> None:
    async def then(saga: Saga) -> None:
        if where == "a step":
            await do(saga, "b")
        elif where == "a savepoint":
            async with saga.savepoint() as attempt:
                await do(attempt, "b")
        else:
            await do(saga, "b")
            await asyncio.sleep(60)

    run = Run(pivoted(then)).start()
    run.activate(completed("a"))
    if where == "a sleep":
        run.activate(completed("b"))
    run.activate(cancel())
    assert cancels(run) == []
    if where != "a sleep":
        assert run.closed is None
        run.activate(completed("b"))
    assert run.history == ["a", "b"]
    assert end(run) == "Cancelled"
    run.check()


def test_pivot_a_cancel_in_a_plain_activity_undoes_nothing() -> None:
    async def then(saga: Saga) -> None:
        await do(saga, "b")
        await workflow.execute_activity("plain", **OPTIONS)

    run = Run(pivoted(then)).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(cancel())
    run.autopilot({})
    assert undone(run) == []
    assert end(run) == "Cancelled"
    run.check()


def test_pivot_a_held_cancel_lets_later_steps_run() -> None:
    async def then(saga: Saga) -> str:
        await do(saga, "b")
        await do(saga, "c")
        return "not the end of the run"

    run = Run(pivoted(then)).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("b"))
    assert run.names == ["c"]
    run.activate(completed("c"))
    assert run.history == ["a", "b", "c"]
    assert end(run) == "Cancelled"
    run.check()


def test_pivot_a_cancel_of_parallel_steps_undoes_nothing() -> None:
    async def then(saga: Saga) -> None:
        await asyncio.gather(do(saga, "b"), do(saga, "c"))

    run = Run(pivoted(then)).start()
    run.activate(completed("a"))
    run.activate(cancel())
    assert cancels(run) == []
    run.activate(completed("b"))
    run.activate(completed("c"))
    assert run.history == ["a", "b", "c"]
    assert end(run) == "Cancelled"
    run.check()


def test_pivot_a_held_cancel_and_then_a_failure() -> None:
    @flow
    async def body() -> str:
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                saga.pivot()
                await do(saga, "b")
                raise REFUSED
        except ApplicationError as error:
            assert error is REFUSED
            await asyncio.sleep(60)
        return "not reached"

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("b"))
    assert run.names == ["undo_b"]
    run.activate(completed("undo_b"))
    assert end(run) == "Cancelled"
    run.check()


def test_pivot_a_cancel_of_a_scope_inside_lets_the_step_run_to_its_end() -> None:
    async def then(saga: Saga) -> str:
        try:
            await asyncio.wait_for(do(saga, "b"), 5)
        except asyncio.TimeoutError:
            return "timed out"
        return "not reached"

    run = Run(pivoted(then)).start()
    run.activate(completed("a"))
    run.activate(timer())
    assert cancels(run) == []
    assert run.closed is None
    run.activate(completed("b"))
    # It raised, so the body believes that it did not happen: rule 7.
    run.autopilot({})
    assert run.history == ["a", "b", "undo_b"]
    assert run.result == "timed out"
    run.check()


def test_pivot_a_drain_waits_without_cancelling() -> None:
    async def then(saga: Saga) -> None:
        await asyncio.gather(do(saga, "b"), do(saga, "slow"))

    run = Run(pivoted(then)).start()
    run.activate(completed("a"))
    run.activate(failed("b", DECLINED))
    assert cancels(run) == []
    assert run.names == ["slow"]
    run.activate(completed("slow"))
    run.autopilot({})
    assert undone(run) == ["undo_slow"]
    run.check()


def test_pivot_in_a_savepoint_is_that_of_the_enclosing_scopes_too() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            async with saga.savepoint() as attempt:
                await do(attempt, "b")
                attempt.pivot()
                await do(attempt, "c")
            await do(saga, "d")

    run = Run(body).autopilot({"d:do": DECLINED})
    assert undone(run) == ["undo_c"]
    assert end(run) == "ActivityError"
    run.check()


def test_pivot_stops_the_deadline() -> None:
    @flow
    async def body() -> str:
        async with new_saga(deadline=5 * SECOND) as saga:
            await do(saga, "a")
            saga.pivot()
            await asyncio.sleep(60)
            return "done"

    run = Run(body).start()
    assert run.activate(completed("a")) == [("cancel_timer", 5.0), ("start_timer", 60.0)]
    run.advance(timedelta(minutes=2))
    assert run.result == "done"
    run.check()


def test_pivot_twice_is_fine() -> None:
    async def then(saga: Saga) -> None:
        await do(saga, "b")
        saga.pivot()
        await do(saga, "c")

    run = Run(pivoted(then)).autopilot({"c:do": REFUSED})
    assert undone(run) == ["undo_c"]
    run.check()


# --- deadline ---


@flow
async def in_time() -> None:
    async with new_saga(deadline=5 * SECOND) as saga:
        await do(saga, "a")
        await do(saga, "b")
        await asyncio.sleep(60)


@pytest.mark.parametrize("where", ["a step", "a sleep"])
def test_deadline_cancels_and_unwinds(where: str) -> None:
    run = Run(in_time).start()
    assert run.commands[0] == ("start_timer", 5.0)
    run.activate(completed("a"))
    if where == "a sleep":
        run.activate(completed("b"))
    run.activate(timer())
    if where == "a step":
        assert cancels(run) == ["b"]
        run.activate(completed("b"))
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert run.error.type == "SagaDeadlineExceeded"
    run.check()


def test_deadline_is_rescinded_once_unwound() -> None:
    @flow
    async def body() -> str:
        try:
            async with new_saga(deadline=5 * SECOND) as saga:
                await do(saga, "a")
                await asyncio.sleep(60)
        except ApplicationError as error:
            await asyncio.sleep(1)
            task: Any = asyncio.current_task()
            assert getattr(task, "cancelling", lambda: 0)() == 0
            return str(error.type)
        return ""

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(timer())
    run.autopilot({})
    assert run.result == "SagaDeadlineExceeded"
    run.check()


@pytest.mark.parametrize("single_batch", [False, True])
@pytest.mark.parametrize("first", ["cancel", "timer"])
def test_deadline_a_cancel_in_the_same_activation_wins(first: str, single_batch: bool) -> None:
    run = Run(in_time, single_batch=single_batch).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    events = [cancel(), timer()]
    run.activate(*(events if first == "cancel" else reversed(events)))
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_deadline_does_not_interrupt_an_unwind() -> None:
    @flow
    async def body() -> None:
        async with new_saga(deadline=5 * SECOND) as saga:
            await do(saga, "a")
            raise REFUSED

    run = Run(body).start()
    assert ("cancel_timer", 5.0) in run.activate(completed("a"))
    run.advance(timedelta(minutes=1))
    run.activate(completed("undo_a"))
    assert end(run) == "Refused"
    run.check()


def test_deadline_that_the_body_swallows_is_raised_at_the_end() -> None:
    @flow
    async def body() -> None:
        async with new_saga(deadline=5 * SECOND) as saga:
            await do(saga, "a")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await do(saga, "b")

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(timer())
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert run.error.type == "SagaDeadlineExceeded"
    run.check()


def test_deadline_while_a_good_end_waits_for_a_step() -> None:
    @flow
    async def body() -> None:
        async with new_saga(deadline=5 * SECOND) as saga:
            asyncio.create_task(do(saga, "b")).add_done_callback(lambda task: task.cancelled())
            await do(saga, "a")

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(timer())
    assert cancels(run) == ["b"]
    run.activate(completed("b"))
    run.autopilot({})
    assert set(undone(run)) == {"undo_a", "undo_b"}
    assert run.error.type == "SagaDeadlineExceeded"
    run.check()


def test_deadline_of_compensate_stops() -> None:
    @flow
    async def body() -> str:
        async with new_saga(deadline=5 * SECOND) as saga:
            await do(saga, "a")
            await saga.compensate()
            await asyncio.sleep(60)
        return "done"

    run = Run(body).start()
    assert ("cancel_timer", 5.0) in run.activate(completed("a"))
    run.advance(timedelta(minutes=1))
    run.activate(completed("undo_a"))
    run.advance(timedelta(minutes=2))
    assert run.result == "done"
    run.check()


# --- detach and state ---


@dataclasses.dataclass
class Money:
    amount: int
    data: bytes
    at: timedelta | None = None


@workflow.defn
class Detaches:
    @workflow.run
    async def run(self, how: str) -> Any:
        options: dict[str, Any] = {"deadline": 60 * SECOND} if how == "deadline" else {}
        async with new_saga("order", **options) as saga:
            await saga.execute_activity(
                "a",
                args=[Money(1, b"\x00\xff"), "x"],
                compensation=Compensation(
                    "undo_a",
                    args=[Money(1, b"\x00\xff"), "x"],
                    schedule_to_close_timeout=timedelta(hours=1),
                    retry_policy=RetryPolicy(
                        maximum_attempts=3, maximum_interval=timedelta(minutes=1), non_retryable_error_types=["X"]
                    ),
                    priority=Priority(priority_key=2),
                    task_queue="undo-queue",
                    summary="mine",
                ),
            )
            await do(saga, "b", key="k", compensation=Compensation.child_workflow("UndoB", 2, id="mine"))
            saga.add_compensation("undo_by_hand", {"nested": [1, None]})
            await asyncio.sleep(20)
            if how == "fail":
                raise REFUSED
            state = saga.detach()
            if how == "used":
                try:
                    await do(saga, "c")
                except ApplicationError as error:
                    return [error.type, saga.report().state]
            if how == "fail after":
                raise REFUSED
        return state


@workflow.defn
class Resumes:
    @workflow.run
    async def run(self, state: SagaState, how: str) -> Any:
        async with new_saga(state=state) as saga:
            if how == "name":
                return saga.name
            if how == "again":
                return saga.detach()
            if how == "sleep":
                await asyncio.sleep(3600)
            if how == "step":
                await do(saga, "a")
                await do(saga, "b", key="k2")
            if how == "same key":
                await do(saga, "b", key="k")
            if how == "another saga":
                async with new_saga("order") as another:
                    await do(another, "a")
            raise REFUSED


def detached(how: str = "") -> Any:
    run = Run(Detaches, how).autopilot({})
    run.check()
    return run.result


def undo_protos(run: Run) -> list[WorkflowCommand]:
    found = []
    for done in run.activations:
        for command in done.protos:
            if ":undo:" in command.schedule_activity.activity_id or ":push:" in command.schedule_activity.activity_id:
                copy = WorkflowCommand()
                copy.CopyFrom(command)
                copy.schedule_activity.ClearField("seq")
                found.append(copy)
            elif command.start_child_workflow_execution.workflow_id == "mine":
                copy = WorkflowCommand()
                copy.CopyFrom(command)
                copy.start_child_workflow_execution.ClearField("seq")
                found.append(copy)
    return found


ANCHOR = "11111111-2222-4333-8444-555555555555"


def test_detach_the_undos_are_the_same_commands_as_without() -> None:
    at_once = Run(Detaches, "fail", run_id=ANCHOR).autopilot({})
    first = Run(Detaches, "", run_id=ANCHOR).autopilot({})
    assert first.history == ["a", "b"]
    later = Run(Resumes, first.result, "").autopilot({})
    assert undo_protos(later) == undo_protos(at_once)
    assert [command[2] for command in later.commands if command[0] != "fail"] == ["undo_by_hand", "UndoB", "undo_a"]
    later.check()


def test_detach_a_state_keeps_its_name_and_keys() -> None:
    state = detached()
    assert Run(Resumes, state, "name").start().result == "order"
    run = Run(Resumes, state, "step").autopilot({})
    ids = [activity.id for activity in run.scheduled]
    assert len(set(ids)) == len(ids)
    assert undone(run) == ["undo_b", "undo_a", "undo_by_hand", "undo_a"]
    again = Run(Resumes, state, "same key").autopilot({})
    assert end(again) == "task: RuntimeError"
    another = Run(Resumes, state, "another saga").autopilot({})
    assert end(another) == "Refused"
    another.check()


def test_detach_again_gives_the_same_state() -> None:
    state = detached()
    run = Run(Resumes, state, "again").start()
    assert run.result == {**state, "run_id": run.run_id, "repeats": True}


def test_detach_is_json_primitives_of_version_2() -> None:
    state = detached()
    assert state["version"] == 2
    (first, second, third) = state["steps"]
    assert [step["phase"] for step in state["steps"]] == ["undo", "undo", "push"]
    assert (first["name"], second["name"], third["name"]) == ("a", "b", "undo_by_hand")
    payload = base64.b64decode(first["compensation"]["arguments"][1])
    assert b'"x"' in payload


def test_detach_then_the_exit_does_nothing() -> None:
    run = Run(Detaches, "fail after").autopilot({})
    assert run.history == ["a", "b"]
    assert end(run) == "Refused"
    run.check()


def test_detach_then_steps_raise_saga_closed() -> None:
    run = Run(Detaches, "used").autopilot({})
    assert run.history == ["a", "b"]
    assert run.result == ["SagaClosed", "DETACHED"]
    run.check()


def test_detach_what_is_left_of_the_deadline_travels() -> None:
    state = detached("deadline")
    assert state["deadline"] == 40.0
    run = Run(Resumes, state, "sleep").start()
    assert run.commands[0] == ("start_timer", 40.0)
    run.autopilot({})
    assert run.error.type == "SagaDeadlineExceeded"
    assert undone(run) == ["undo_by_hand", "undo_a"]
    run.check()


def test_detach_a_pivot_travels() -> None:
    @flow
    async def body() -> Any:
        async with new_saga("order") as saga:
            await do(saga, "a")
            saga.pivot()
            await do(saga, "b")
            return saga.detach()

    first = Run(body).autopilot({})
    run = Run(Resumes, first.result, "sleep").start()
    run.activate(cancel())
    assert undone(run) == []
    assert end(run) == "Cancelled"
    run.check()
    failing = Run(Resumes, first.result, "").autopilot({})
    assert undone(failing) == ["undo_b"]
    failing.check()


@flow
async def detaches() -> SagaState:
    async with new_saga() as saga:
        await do(saga, "a")
        return saga.detach()


@pytest.mark.parametrize("is_reset", [True, False])
def test_a_state_knows_that_its_run_was_reset(is_reset: bool) -> None:
    first = Run(detaches).start(*[reset()] * is_reset).autopilot({})
    run = Run(Resumes, first.result, "step", continued_run_id=first.run_id).autopilot({"a": DECLINED})
    assert undone(run) == ["undo_a"] * (2 if is_reset else 1)
    run.check()


@pytest.mark.parametrize(
    "giver", [None, str(UUID(int=1))], ids=["started by a client", "from a retry, or a run that was reset behind it"]
)
def test_a_state_that_took_another_way_proves_nothing(giver: str | None) -> None:
    # The run that detached it may have gone on with it elsewhere, under the same keys.
    first = Run(detaches).autopilot({})
    run = Run(Resumes, first.result, "step", continued_run_id=giver).autopilot({"a": DECLINED})
    assert undone(run) == ["undo_a", "undo_a"]
    run.check()


def test_detach_refuses_what_cannot_be_written_down() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            saga.add_compensation("undo_a", versioning_intent=workflow.VersioningIntent.DEFAULT)
            saga.detach()

    run = Run(body).start()
    assert end(run) in ("task: ValueError", "task: RuntimeError")
    assert "versioning_intent" in run.commands[-1][2]


@flow
async def adopts() -> None:
    async with new_saga("parent") as saga:
        await saga.execute_child_workflow(
            "Child", result_type=SagaState, compensation_from=lambda outcome: outcome.result
        )
        raise REFUSED


@pytest.mark.parametrize("place", ["state=", "compensation_from="])
def test_a_state_of_a_newer_format_is_refused_where_it_is_taken_until_the_worker_is_upgraded(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release never guesses what a newer one has written. Nothing is lost: an upgraded worker goes on."""
    state = {**detached(), "version": VERSION + 1, "of a newer release": [1]}
    if place == "state=":
        run = Run(Resumes, state, "").start()
    else:
        run = Run(adopts).start()
        run.activate(child_started("Child"))
        run.activate(child_completed("Child", state))
    assert end(run) == "task: RuntimeError"
    message = run.commands[-1][2]
    assert (
        f"this SagaState has format {VERSION + 1}, and this release reads {VERSION}: upgrade temporal-saga" in message
    )
    assert place == "state=" or message.startswith("compensation_from= of step 'Child' returned what cannot be read: ")
    assert run.scheduled == []
    monkeypatch.setattr("temporal_saga._state.VERSION", VERSION + 1)
    run.restart().autopilot({})
    assert undone(run) == ["undo_by_hand", "undo_a"]


def test_a_state_that_came_without_its_type_is_told_so() -> None:
    @flow
    async def body() -> None:
        new_saga(state={"version": 2})

    run = Run(body).start()
    assert run.task_failure == (
        "task_failed",
        "TypeError",
        "state= takes a SagaState; got dict: annotate what carries it as SagaState",
    )


def test_detach_after_an_unwind_is_refused() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            await saga.compensate()
            saga.detach()
        return ""

    run = Run(body).autopilot({})
    assert run.history == ["a", "undo_a"]
    assert run.closed is None or run.closed[0] == "fail"


# --- options ---


def schedules(run: Run) -> dict[str, Any]:
    return {activity.name: activity.command for activity in run.scheduled}


def test_options_merge_key_by_key() -> None:
    @flow
    async def body() -> None:
        async with Saga(
            activity_options={
                "start_to_close_timeout": 7 * SECOND,
                "heartbeat_timeout": 2 * SECOND,
                "task_queue": "of-the-saga",
            },
            compensation_options={"start_to_close_timeout": 8 * SECOND, "task_queue": "undo"},
        ) as saga:
            await do(saga, "a", start_to_close_timeout=9 * SECOND)
            await do(saga, "b", compensation=Compensation("undo_b", start_to_close_timeout=3 * SECOND))
            saga.add_compensation("undo_c", task_queue="mine")
            raise REFUSED

    run = Run(body).autopilot({})
    found = {
        name: (command.start_to_close_timeout.seconds, command.heartbeat_timeout.seconds, command.task_queue)
        for name, command in schedules(run).items()
    }
    assert found == {
        "a": (9, 2, "of-the-saga"),
        "b": (7, 2, "of-the-saga"),
        "undo_a": (8, 0, "undo"),
        "undo_b": (3, 0, "undo"),
        "undo_c": (8, 0, "mine"),
    }
    run.check()


def test_options_a_preset_over_another_inherits_nothing() -> None:
    @flow
    async def body() -> None:
        async with Saga(activity_options=presets.standard()) as saga:
            await do(saga, "a")
            await do(saga, "b", **presets.forward_only())
            raise REFUSED

    run = Run(body).autopilot({})
    found = schedules(run)
    assert found["a"].HasField("schedule_to_close_timeout")
    assert found["a"].retry_policy.maximum_attempts == 8
    assert not found["b"].HasField("schedule_to_close_timeout")
    assert found["b"].retry_policy.maximum_attempts == 0
    for name in ("undo_a", "undo_b"):
        assert not found[name].HasField("schedule_to_close_timeout")
        assert found[name].start_to_close_timeout.seconds == 30
        assert found[name].retry_policy.maximum_attempts == 0
    run.check()


def test_options_of_a_savepoint_are_its_sagas() -> None:
    @flow
    async def body() -> None:
        options = {"start_to_close_timeout": 4 * SECOND}
        async with new_saga(compensation_options=options) as saga, saga.savepoint() as attempt:
            await do(attempt, "a")
            raise REFUSED

    found = schedules(Run(body).autopilot({}))
    assert found["a"].start_to_close_timeout.seconds == 10
    assert found["undo_a"].start_to_close_timeout.seconds == 4


def test_options_a_users_own_summary_wins() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await do(saga, "b", compensation=Compensation("undo_b", summary="mine"))
            raise REFUSED

    run = Run(body).autopilot({})
    converter = run.data_converter.payload_converter
    found = [
        converter.from_payload(command.user_metadata.summary)
        for done in run.activations
        for command in done.protos
        if command.user_metadata.HasField("summary")
    ]
    assert found == ["mine", "undo a"]


@pytest.mark.parametrize("options", [presets.standard, "standard", 5])
def test_options_that_are_no_mapping_are_refused(options: Any) -> None:
    with pytest.raises(TypeError, match="preset"):
        Saga(activity_options=options)


def test_order_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="concurrent"):
        Saga(order="parallel")  # type: ignore[arg-type]


# --- children ---


def child_protos(run: Run) -> list[Any]:
    return [
        command.start_child_workflow_execution
        for done in run.activations
        for command in done.protos
        if command.HasField("start_child_workflow_execution")
    ]


def test_children_their_ids_and_policies() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await saga.execute_child_workflow("Child", 1, compensation=Compensation.child_workflow("UndoChild", 1))
            await saga.execute_child_workflow(
                "Mine",
                id="my-id",
                parent_close_policy=workflow.ParentClosePolicy.TERMINATE,
                compensation=Compensation.child_workflow(
                    "UndoMine", id="my-undo", parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL
                ),
            )
            raise REFUSED

    run = Run(body).autopilot({})
    child, mine, undo_mine, undo_child = child_protos(run)
    assert child.workflow_id.startswith("Child:do:")
    assert undo_child.workflow_id == child.workflow_id.replace(":do:", ":undo:")
    assert (mine.workflow_id, undo_mine.workflow_id) == ("my-id", "my-undo")
    assert [each.parent_close_policy for each in (child, undo_child, mine, undo_mine)] == [
        ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
        ParentClosePolicy.PARENT_CLOSE_POLICY_ABANDON,
        ParentClosePolicy.PARENT_CLOSE_POLICY_TERMINATE,
        ParentClosePolicy.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
    ]
    run.check()


@workflow.defn
class Part:
    @workflow.run
    async def run(self, amount: int) -> int:
        return amount


@workflow.defn(name="undo-part")
class UndoPart:
    @workflow.run
    async def run(self, amount: int) -> None:
        pass


def test_children_by_their_run_method() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            assert await saga.execute_child_workflow(Part.run, 3, compensation=UndoPart.run) == 3
            saga.add_compensation(UndoPart.run, 4)
            raise REFUSED

    run = Run(body).autopilot({"Part": 3})
    assert [(child.workflow_type, child.workflow_id.split(":")[:2]) for child in child_protos(run)] == [
        ("Part", ["Part", "do"]),
        ("undo-part", ["undo-part", "push"]),
        ("undo-part", ["Part", "undo"]),
    ]
    run.check()


def test_children_a_parallel_child_is_drained() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await asyncio.gather(do(saga, "a"), saga.execute_child_workflow("Child", compensation="undo_child"))

    run = Run(body).start()
    run.activate(child_started("Child"))
    run.activate(failed("a", DECLINED))
    assert cancels(run) == ["Child"]
    assert run.names == []
    run.activate(child_completed("Child"))
    run.autopilot({})
    assert undone(run) == ["undo_child"]
    run.check()


def test_children_drained_while_it_starts() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await asyncio.gather(do(saga, "a"), saga.execute_child_workflow("Child", compensation="undo_child"))

    run = Run(body).start()
    run.activate(failed("a", DECLINED))
    assert cancels(run) == []
    assert run.names == []
    run.activate(child_started("Child"))
    assert cancels(run) == ["Child"]
    run.activate(child_completed("Child"))
    run.autopilot({})
    assert undone(run) == ["undo_child"]
    run.check()


# --- kinds of activities ---


@activity.defn
async def book(name: str) -> str:
    return name


@activity.defn(name="unbook-it")
def unbook(name: str) -> None:
    pass


@activity.defn
async def pay(name: str, amount: int) -> None:
    pass


@activity.defn
async def refund(name: str, amount: int) -> None:
    pass


class Bank:
    @activity.defn
    async def withdraw(self, amount: int) -> int:
        return amount

    @activity.defn
    def put_back(self, amount: int) -> None:
        pass


@activity.defn(name="notify")
class Notify:
    async def __call__(self, name: str) -> None:
        pass


callable_class: Any = Notify


@activity.defn
async def nothing() -> None:
    pass


def test_kinds_of_activities() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await saga.execute_activity(book, "x", compensation=unbook)
            await saga.execute_activity(pay, args=["x", 1], compensation=refund)
            await saga.execute_activity_method(Bank.withdraw, 5, compensation=Bank.put_back)
            await saga.execute_activity(callable_class, "x", compensation=unbook)
            await saga.execute_activity("by_name", 7, compensation="undo_by_name")
            await saga.execute_activity(nothing, compensation=nothing)
            raise REFUSED

    run = Run(body).autopilot({})
    assert [(activity.name, activity.args) for activity in run.scheduled] == [
        ("book", ["x"]),
        ("pay", ["x", 1]),
        ("withdraw", [5]),
        ("notify", ["x"]),
        ("by_name", [7]),
        ("nothing", []),
        ("nothing", []),
        ("undo_by_name", [7]),
        ("unbook-it", ["x"]),
        ("put_back", [5]),
        ("refund", ["x", 1]),
        ("unbook-it", ["x"]),
    ]
    assert run.scheduled[-1].id == run.scheduled[0].id.replace("book:do:", "book:undo:")
    run.check()


def test_a_compensation_that_cannot_take_the_steps_input_is_found_at_the_call() -> None:
    seen: list[str] = []

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            for wrong in (refund, nothing):
                try:
                    await saga.execute_activity("book", "x", compensation=wrong)
                except TypeError as error:
                    seen.append(str(error))

    run = Run(body).start()
    assert run.commands == [("complete", None)]
    assert len(seen) == 2
    assert "compensation_from=" in seen[0]
    assert "write compensation=Compensation(nothing)" in seen[1]


# --- parallel steps, and steps of one name ---


def test_parallel_keys_are_in_the_order_of_the_calls() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            items = [saga.execute_activity("reserve", item, compensation="undo") for item in range(4)]
            await asyncio.gather(*reversed(items))

    @flow
    async def in_order() -> None:
        async with new_saga() as saga:
            for item in range(4):
                await saga.execute_activity("reserve", item, compensation="undo")

    turned = Run(body, run_id=ANCHOR).autopilot({})
    plain = Run(in_order, run_id=ANCHOR).autopilot({})
    assert {activity.args[0]: activity.id for activity in turned.scheduled} == {
        activity.args[0]: activity.id for activity in plain.scheduled
    }
    turned.check()


def test_a_step_that_is_never_awaited_arms_nothing() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            never = do(saga, "never")
            never.close()
            await do(saga, "a")
            raise REFUSED

    run = Run(body).autopilot({})
    assert run.history == ["a", "undo_a"]
    run.check()


@pytest.mark.parametrize("how", ["key", "step"])
def test_one_name_from_two_tasks_needs_a_key_or_a_name_of_its_own(how: str) -> None:
    @flow
    async def body() -> None:
        async def branch(saga: Saga, item: str) -> None:
            await do(saga, f"prepare_{item}")
            options: dict[str, Any] = {"key": item} if how == "key" else {"step": f"reserve_{item}"}
            await saga.execute_activity("reserve", item, compensation="undo_reserve", **options)

        async with new_saga() as saga:
            await asyncio.gather(branch(saga, "x"), branch(saga, "y"))
            raise REFUSED

    keys: list[dict[str, str]] = []
    for order in ("xy", "yx"):
        run = Run(body, run_id=ANCHOR).start()
        for item in order:
            run.activate(completed(f"prepare_{item}"))
        run.autopilot({})
        keys.append({a.args[0]: a.id for a in run.scheduled if a.name == "reserve"})
        assert undone(run).count("undo_reserve") == 2
        run.check()
    assert keys[0] == keys[1]


def test_wait_for_runs_its_awaitable_in_a_task_of_its_own_before_python_3_12() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            for number in range(2):
                await asyncio.wait_for(do(saga, "a", key=str(number)), 60)

    run = Run(body).autopilot({})
    assert run.history == ["a", "a"]
    run.check()


# --- what people see ---


def test_a_saga_inside_a_saga_warns(caplog: pytest.LogCaptureFixture) -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            async with new_saga("inner") as inner:
                await do(inner, "b")

    run = Run(body).autopilot({})
    (record,) = [record for record in caplog.records if record.name == "temporalio.workflow"]
    assert record.levelno == logging.WARNING
    assert "savepoint()" in record.getMessage()
    run.check()


def test_the_details_show_the_unwinding_saga_as_a_list() -> None:
    shown: list[str] = []

    @flow
    async def body() -> str:
        workflow.set_current_details("mine")
        workflow.set_signal_handler("look", lambda: shown.append(workflow.get_current_details()))
        try:
            async with new_saga("order") as saga:
                await do(saga, "a")
                await do(saga, "b")
                assert workflow.get_current_details() == "mine"
                raise REFUSED
        except ApplicationError:
            return workflow.get_current_details()

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(completed("undo_b"))
    run.activate(signal("look"))
    assert "**order**" in shown[0]
    assert "- **b** (APPLIED) → undo_b: **DONE**\n- **a** (APPLIED) → undo_a: **RUNNING**" in shown[0]
    run.activate(failed("undo_a", REFUSED))
    assert "1 of 2 undone, 1 failed" in run.result
    assert "- **a** (APPLIED) → undo_a: **FAILED**" in run.result


def test_reports_of_all_sagas_of_a_run_in_order_of_entry() -> None:
    @flow
    async def body() -> None:
        async with new_saga("one") as one:
            await do(one, "a")
        async with new_saga("two") as two:
            async with two.savepoint() as attempt:
                await do(attempt, "b")
            await do(two, "c")
            raise REFUSED

    run = Run(body).autopilot({})
    found = [
        (report["name"], report["state"], [s["name"] for s in report["steps"]]) for report in run.query("saga_report")
    ]
    assert found == [("one", "COMPLETED", ["a"]), ("two", "COMPENSATED", ["b", "c"])]
    run.check()


def test_report_states_of_steps() -> None:
    run = Run(in_time).start()
    run.activate(completed("a"))
    (report,) = run.query("saga_report")
    assert report["state"] == "OPEN"
    assert [(s["name"], s["state"]) for s in report["steps"]] == [("a", "APPLIED"), ("b", "RUNNING")]
    run.activate(cancel())
    run.activate(cancelled("b"))
    run.autopilot({})
    run.check()


def test_the_first_way_that_fails_is_undone_before_the_second_is_tried() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "order")
            for carrier in ("ups", "dhl"):
                try:
                    async with saga.savepoint() as attempt:
                        await do(attempt, f"book_{carrier}")
                        await do(attempt, f"label_{carrier}")
                        break
                except ActivityError:
                    continue
            raise REFUSED

    run = Run(body).autopilot({"label_ups:do": REFUSED})
    assert run.history == [
        "order",
        "book_ups",
        "label_ups",
        "undo_label_ups",
        "undo_book_ups",
        "book_dhl",
        "label_dhl",
        "undo_label_dhl",
        "undo_book_dhl",
        "undo_order",
    ]
    run.check()


def test_a_bug_says_in_the_log_what_would_undo(caplog: pytest.LogCaptureFixture) -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            raise ValueError("sold out to Miss Marple")

    run = Run(body).autopilot({})
    assert end(run) == "task: ValueError"
    (record,) = [record for record in caplog.records if record.name == "temporalio.workflow"]
    assert "raised ValueError" in record.message
    assert "To undo, raise an ApplicationError" in record.message
    assert "Marple" not in record.message


def test_a_deadline_is_a_timedelta() -> None:
    with pytest.raises(TypeError, match=r"deadline must be a timedelta, such as timedelta\(seconds=5\); got 5"):
        Saga(deadline=5)  # type: ignore[arg-type]


def test_a_compensation_from_that_returns_something_else_is_named() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a", compensation_from=lambda _: do)

    run = Run(body).autopilot({})
    assert run.task_failure is not None
    assert (
        "compensation_from= of step 'a' returned function: return a Compensation, a SagaState or None"
        in run.task_failure[2]
    )


@pytest.mark.parametrize("where", ["activity_options", "compensation_options"])
def test_options_of_a_saga_are_looked_at_before_anything_happens(where: str) -> None:
    with pytest.raises(
        TypeError, match=r"start_to_close_timeout must be a timedelta, such as timedelta\(seconds=5\); got 5"
    ):
        Saga(**{where: {"start_to_close_timeout": 5}})  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match="heartbeat_timout= is not an option of an activity; did you mean heartbeat_timeout="
    ):
        Saga(**{where: {"heartbeat_timout": timedelta(seconds=5)}})  # type: ignore[arg-type]
