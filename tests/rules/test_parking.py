"""What has failed for good waits for a person: rules 1, 2, 5 and 6, with a decision in place of an end."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity, workflow
from temporalio.common import SearchAttributeKey
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultPayloadConverter,
    JSONPlainPayloadConverter,
)
from temporalio.exceptions import ApplicationError
from temporalio.worker import HandleUpdateInput, Interceptor, WorkflowInboundInterceptor, WorkflowInterceptorClassInput

from temporal_saga import Compensation, CompensationError, Parked, Saga, SagaState
from temporal_saga._step import Step
from temporal_saga.plugin import SagaPlugin
from tests.driver import Run, cancel, cancelled, child_failed, child_started, completed, failed, signal, timer, update
from tests.rules.workflows import DECLINED, REFUSED, cancels, do, end, flow, new_saga, proof, undone

pytestmark = pytest.mark.usefixtures("collected")

HOUR = timedelta(hours=1)
REJECTED = proof("REJECTED", "Rejected")
FENCED = proof("FENCED", "Fenced")
NOT_SENT = proof("NOT_SENT", "NotSent")


@activity.defn
async def takes_nothing() -> None: ...


def scoped(act: Callable[[Saga], Awaitable[Any]] | None = None, *, names: str = "ab", **options: Any) -> type[Any]:
    """Return a workflow of a saga that parks compensations: its steps, what is given, and then a failure."""

    @flow
    async def body() -> Any:
        async with new_saga(**{"on_compensation_failure": "park", **options}) as saga:
            for name in names:
                await do(saga, name)
            if act is not None:
                return await act(saga)
            raise REFUSED

    return body


def parked_undo(run: Run, names: str = "ab") -> str:
    """Bring a saga to where the undo of its last step is parked; return the key."""
    run.start()
    for name in names:
        run.activate(completed(name))
    run.activate(failed(f"undo_{names[-1]}", REFUSED))
    return key_of(run, names[-1])


def key_of(run: Run, name: str) -> str:
    return next(activity.id for activity in run.scheduled if activity.name == name).rpartition(":")[2]


def decide(key: str, action: str, who: str = "ann", why: str = "the bank said so", update_id: str = "u") -> Any:
    return update("saga_resolve", key, action, who, why, update_id=update_id)


def rejection(run: Run) -> Any:
    """Return why the last update was rejected."""
    command = run.activations[-1].commands[0]
    assert command[0] == "update_rejected"
    return command[2]


def report(run: Run) -> dict[str, Any]:
    (only,) = run.query("saga_report")
    return dict(only)


def states(run: Run) -> dict[str, tuple[str, str | None]]:
    return {step["name"]: (step["state"], step["undo_state"]) for step in report(run)["steps"]}


# --- an undo ---


@pytest.mark.parametrize("plugins", [[], [SagaPlugin()]], ids=["without", "with"])
@pytest.mark.parametrize("order", ["reverse", "concurrent"])
@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("action", ["retry", "done_by_hand", "give_up"])
def test_a_parked_undo_ends_as_a_person_decides(action: str, retries: int, order: str, plugins: list[Any]) -> None:
    """After as many retries as wanted, each under the same id. The older undos wait for it."""
    run = Run(scoped(order=order), plugins=plugins)
    key = parked_undo(run)
    for number in range(retries):
        run.activate(decide(key, "retry", update_id=f"r{number}"))
        assert [activity.id for activity in run.activities] == [f"b:undo:{key}"]
        run.activate(failed("undo_b", REFUSED))
    assert (run.names, report(run)["state"], states(run)["b"]) == ([], "PARKED", ("APPLIED", "PARKED"))
    run.activate(decide(key, action))
    if action == "retry":
        run.activate(completed("undo_b"))
    run.activate(completed("undo_a"))
    state = {"retry": "DONE", "done_by_hand": "BY_HAND", "give_up": "GIVEN_UP"}[action]
    assert states(run) == {"a": ("APPLIED", "DONE"), "b": ("APPLIED", state)}
    assert end(run) == ("CompensationError" if action == "give_up" else "Refused")
    assert report(run)["state"] == ("INCOMPLETE" if action == "give_up" else "COMPENSATED")
    step = report(run)["steps"][1]
    assert (step["who"], step["why"]) == ("ann", "the bank said so")
    assert undone(run) == ["undo_b"] * (1 + retries + (action == "retry")) + ["undo_a"]
    run.check()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"key": "nobody"}, "nothing is parked under the key 'nobody'; parked now: b ("),
        ({"action": "forget"}, "action must be one of retry, done_by_hand, give_up; got 'forget'"),
        ({"who": " "}, "say who"),
        ({"who": None}, "say who"),
        ({"why": ""}, "say why"),
        ({"who": "x" * 101}, "who has 101 characters, and may have 100"),
        ({"why": "x" * 801}, "why has 801 characters, and may have 800"),
        ({"who": "ann\n- **b** (APPLIED)"}, "who must be a name, without line breaks"),
        ({"who": "ann\x1b[2J"}, "who must be a name, without line breaks"),
    ],
    ids=["key", "action", "who", "null", "why", "long who", "long why", "lines", "control"],
)
def test_a_decision_that_does_not_fit_is_rejected(change: dict[str, Any], says: str) -> None:
    """With what would be right; nothing is decided by it."""
    run = Run(scoped())
    key = parked_undo(run)
    given = {"key": key, "action": "retry", "who": "ann", "why": "because"} | change
    run.activate(update("saga_resolve", *given.values(), update_id="u"))
    error = rejection(run)
    assert (error.type, says in str(error)) == ("SagaNotResolved", True), error
    assert states(run)["b"] == ("APPLIED", "PARKED")
    run.activate(decide(key, "done_by_hand", update_id="v"))
    run.activate(decide(key, "done_by_hand", update_id="w"))  # it is not parked any more
    assert run.activations[-1].commands[0][0] == "update_rejected"
    run.check()


@pytest.mark.parametrize("events", [1, 3], ids=["the task starts", "the task times out and starts again"])
def test_a_decision_waits_until_the_history_has_the_parking(events: int) -> None:
    """A query has shown what will be parked. On a replay, a decision in that workflow task would come first.

    Siblings: a step. What is parked in a replay is on record, so that a worker without a cache rejects nothing.
    """
    run = Run(scoped())
    key = parked_undo(run)
    length = run.activations[-1].request.history_length
    run.activate(decide(key, "retry", update_id="u"), history_length=length + events)
    error = rejection(run)
    assert (error.type, "decide again in a moment" in str(error)) == ("SagaNotResolved", True), error
    run.activate(decide(key, "retry", update_id="v"))
    run.activate(completed("undo_b"))
    run.activate(completed("undo_a"))
    assert end(run) == "Refused"
    run.check()


class Unwritable: ...


class Refuses(DefaultPayloadConverter):
    def to_payloads(self, values: Sequence[Any]) -> list[Any]:
        if any(isinstance(value, Unwritable) for value in values):
            raise ApplicationError("cannot be written", type="Unwritable")
        return super().to_payloads(values)


def test_an_undo_that_parks_at_once_after_its_step_is_decided() -> None:
    """A step that is parked is cut short. Its undo parks in the same activation, under the same key."""

    @flow
    async def body() -> None:
        async with new_saga(on_step_failure="park", on_compensation_failure="park") as saga:
            other = asyncio.create_task(do(saga, "a"))
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(do(saga, "b", compensation=Compensation("undo_b", Unwritable())), 60)
            with suppress(CompensationError):
                await saga.undo("b")
            await other

    converter = dataclasses.replace(DataConverter.default, payload_converter_class=Refuses)
    run = Run(body, data_converter=converter).start()
    run.activate(failed("a", REFUSED), failed("b", REFUSED))
    key = key_of(run, "b")
    commands = run.activate(timer())
    assert run.task_failure is None
    assert states(run)["b"] == ("UNKNOWN", "PARKED")
    assert "modify_workflow_properties" in {
        command[0] for command in commands
    }  # else no decision would ever be on record
    run.activate(decide(key, "give_up", update_id="u"))
    assert states(run)["b"] == ("UNKNOWN", "GIVEN_UP")
    run.activate(cancel())
    run.autopilot({})
    run.check()


def test_of_two_decisions_in_one_activation_the_first_holds() -> None:
    run = Run(scoped())
    key = parked_undo(run)
    run.activate(decide(key, "done_by_hand", "ann", update_id="u"), decide(key, "give_up", "bob", update_id="v"))
    kinds = [command[0] for command in run.activations[-1].commands]
    assert kinds.count("update_rejected") == 1
    assert report(run)["steps"][1]["who"] == "ann"
    run.activate(completed("undo_a"))
    assert end(run) == "Refused"
    run.check()


class _Asks(WorkflowInboundInterceptor):
    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        await workflow.execute_activity("may_they", start_to_close_timeout=HOUR)
        return await super().handle_update_handler(input)


class Asks(Interceptor):
    """An interceptor that waits before a handler: it asks whether they may do that."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _Asks


@pytest.mark.parametrize("what", ["undo", "step"])
@pytest.mark.parametrize("first", ["give_up", "retry", "cancel"])
def test_a_decision_that_an_interceptor_delays_may_come_too_late(first: str, what: str) -> None:
    """Both were checked while it was parked: the second is refused then, and fails no workflow task (rule 8).

    What was parked may also have been given up by a cancel, or may run again.
    """
    run = Run(one_step() if what == "step" else scoped(), interceptors=[Asks()])
    if what == "undo":
        key = parked_undo(run)
    else:
        run.start()
        run.activate(completed("a"))
        run.activate(failed("b", REFUSED))
        key = key_of(run, "b")
    if first == "cancel":
        run.activate(decide(key, "retry", "bob", update_id="late"))
        run.activate(cancel())
    else:
        run.activate(decide(key, first, "ann", update_id="early"))
        run.activate(decide(key, "retry", "bob", update_id="late"))
        run.activate(completed("may_they"))
    run.activate(completed("may_they"))
    assert run.task_failure is None
    is_taken = first == "cancel" and what == "undo"  # a cancel loses nothing of an undo that is parked
    ends = [command[0] for command in run.commands if command[1:2] == ("late",)]
    assert ends == ["update_accepted", "update_completed" if is_taken else "update_rejected"]
    decided = {"name": "b", "who": "bob" if is_taken else None if first == "cancel" else "ann"}
    assert decided.items() <= report(run)["steps"][1].items()
    run.autopilot({})
    assert states(run)["a"] == ("APPLIED", None if what == "step" and first == "retry" else "DONE")
    run.check()


@pytest.mark.parametrize("cancels_at", [0, 1, 2])
@pytest.mark.parametrize("action", ["done_by_hand", "give_up"])
def test_a_cancel_while_an_undo_is_parked_loses_nothing(action: str, cancels_at: int) -> None:
    """Before it is parked, while it is, and after the decision."""
    run = Run(scoped()).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    events = [failed("undo_b", REFUSED), decide(key_of(run, "b"), action), completed("undo_a")]
    for at, event in enumerate(events):
        if at == cancels_at:
            run.activate(cancel())
        run.activate(event)
    assert states(run)["a"] == ("APPLIED", "DONE")
    assert end(run) == ("CompensationError" if action == "give_up" else "Refused")
    run.check()


def test_overlapping_undos_go_on_while_one_is_parked() -> None:
    """With order="concurrent", a parked undo holds only what has to come after it."""

    @flow
    async def body() -> None:
        async with new_saga(order="concurrent", on_compensation_failure="park") as saga:
            await do(saga, "first")
            await asyncio.gather(do(saga, "x"), do(saga, "y"))
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("first"))
    run.activate(completed("x"))
    run.activate(completed("y"))
    run.activate(failed("undo_x", REFUSED))
    run.activate(completed("undo_y"))
    assert run.names == []
    run.activate(decide(key_of(run, "x"), "done_by_hand"))
    assert run.names == ["undo_first"]
    run.activate(completed("undo_first"))
    assert end(run) == "Refused"
    run.check()


def test_what_saga_undo_undoes_parks_as_well() -> None:
    async def act(saga: Saga) -> str:
        await saga.undo("a")
        return "done"

    run = Run(scoped(act)).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(failed("undo_a", REFUSED))
    assert report(run)["state"] == "PARKED"
    run.activate(decide(key_of(run, "a"), "retry"))
    run.activate(completed("undo_a"))
    assert end(run) == "done"
    assert states(run) == {"a": ("APPLIED", "DONE"), "b": ("APPLIED", None)}
    run.check()


@pytest.mark.parametrize("action", ["retry", "done_by_hand", "give_up"])
def test_a_callback_and_a_child_park_as_well(action: str) -> None:
    tried: list[int] = []

    def callback() -> None:
        tried.append(1)
        if len(tried) % 2:
            raise REFUSED

    async def act(saga: Saga) -> None:
        saga.add_callback(callback)
        await do(saga, "c", compensation=Compensation.child_workflow("undo_c"))
        raise REFUSED

    run = Run(scoped(act, names="")).start()
    run.activate(completed("c"))
    (child,) = run.children
    run.activate(child_started(child.id))
    run.activate(child_failed(child.id, REFUSED))
    run.activate(decide(key_of(run, "c"), action, update_id="u"))
    if action == "retry":
        assert [each.id for each in run.children] == [child.id]
        run.activate(child_started(child.id))
        run.activate(child_failed(child.id, REFUSED))
        run.activate(decide(key_of(run, "c"), "give_up", update_id="u2"))
    pushed = report(run)["steps"][0]
    assert pushed["undo_state"] == "PARKED"
    run.activate(decide(pushed["key"], action, update_id="v"))
    assert end(run) == ("Refused" if action == "done_by_hand" else "CompensationError")
    assert report(run)["steps"][0]["undo_state"] == {"retry": "DONE", "done_by_hand": "BY_HAND"}.get(action, "GIVEN_UP")


# --- a step ---


def one_step(**options: Any) -> type[Any]:
    """Return a workflow of steps `a` and `b`, of which `b` parks; it swallows what `b` raises, and says so."""

    async def act(saga: Saga) -> Any:
        return await do(saga, "b", **options)

    return scoped(act, names="a", on_step_failure="park")


@pytest.mark.parametrize("plugins", [[], [SagaPlugin()]], ids=["without", "with"])
@pytest.mark.parametrize("retries", [1, 3])
@pytest.mark.parametrize("works", [True, False])
def test_a_parked_step_is_tried_again_under_its_key(works: bool, retries: int, plugins: list[Any]) -> None:
    run = Run(one_step(), plugins=plugins).start()
    run.activate(completed("a"))
    run.activate(failed("b", REFUSED))
    key = key_of(run, "b")
    for number in range(retries):
        assert (report(run)["state"], states(run)["b"]) == ("PARKED", ("PARKED", "PENDING"))
        run.activate(decide(key, "retry", update_id=f"r{number}"))
        assert [activity.id for activity in run.activities] == [f"b:do:{key}"]
        assert states(run)["b"] == ("RUNNING", "PENDING")
        run.activate(completed("b", "paid") if works and number == retries - 1 else failed("b", REFUSED))
    if not works:
        run.activate(decide(key, "give_up"))
        run.activate(completed("undo_b"))
        run.activate(completed("undo_a"))
    assert end(run) == ("paid" if works else "ActivityError")
    run.check()


def test_a_step_cannot_be_done_by_hand() -> None:
    run = Run(one_step()).start()
    run.activate(completed("a"))
    run.activate(failed("b", REFUSED))
    run.activate(decide(key_of(run, "b"), "done_by_hand"))
    error = rejection(run)
    assert "action must be one of retry, give_up" in str(error)
    assert "nobody can give by hand" in str(error)
    run.check()


@pytest.mark.parametrize("error", [DECLINED, REJECTED, FENCED], ids=lambda error: error.type)
def test_a_refusal_does_not_park(error: ApplicationError) -> None:
    """It is an answer: nobody can make another of it."""
    run = Run(one_step()).start()
    run.activate(completed("a"))
    run.activate(failed("b", error))
    assert run.names == ["undo_a"]
    run.check()


@pytest.mark.parametrize("first", [REFUSED, NOT_SENT], ids=["unknown", "no effect"])
@pytest.mark.parametrize("last", [REFUSED, NOT_SENT], ids=["unknown", "no effect"])
@pytest.mark.parametrize("retries", [0, 1])
def test_proof_holds_for_the_only_attempt(first: Any, last: Any, retries: int) -> None:
    """What failed before a retry may have had an effect; without a retry the error says what the step is."""
    run = Run(one_step()).start()
    run.activate(completed("a"))
    run.activate(failed("b", first))
    for _ in range(retries):
        run.activate(decide(key_of(run, "b"), "retry", update_id="r"))
        run.activate(failed("b", last))
    run.activate(decide(key_of(run, "b"), "give_up"))
    proven = first is NOT_SENT and not retries
    assert states(run)["b"] == (("NOT_APPLIED", None) if proven else ("UNKNOWN", "RUNNING"))
    assert run.names == (["undo_a"] if proven else ["undo_b"])
    run.check()


@pytest.mark.parametrize("error", [REFUSED, NOT_SENT], ids=["unknown", "no effect"])
@pytest.mark.parametrize("how", ["cancel", "deadline", "sibling", "timeout"])
def test_what_ends_the_waiting_of_a_step_undoes_it(how: str, error: Any) -> None:
    """A cancel, the deadline, the drain of a sibling's failure, a timeout around: the step is UNKNOWN, and undone."""

    @flow
    async def body() -> None:
        async with new_saga(on_step_failure="park", deadline=HOUR if how == "deadline" else None) as saga:
            step = do(saga, "b")
            if how == "sibling":
                await asyncio.gather(step, do(saga, "s", compensation=None, on_step_failure="raise"))
            elif how == "timeout":
                await asyncio.wait_for(step, 3600)
            else:
                await step

    run = Run(body).start()
    run.activate(failed("b", error))
    assert states(run)["b"][0] == "PARKED"
    run.activate({"cancel": cancel, "sibling": lambda: failed("s", REFUSED)}.get(how, timer)())
    assert states(run)["b"] == ("UNKNOWN", "RUNNING")
    assert run.names == ["undo_b"]
    run.activate(decide(key_of(run, "b"), "retry"))
    assert run.activations[-1].commands[0][0] == "update_rejected"  # nobody waits for that any more
    run.activate(completed("undo_b"))
    ends = {
        "cancel": "Cancelled",
        "deadline": "SagaDeadlineExceeded",
        "sibling": "ActivityError",
        "timeout": "TimeoutError",
    }
    assert ends[how] in end(run)
    run.check()


ENDS_THE_WAITING = ["cancel", "deadline", "sibling", "timeout"]


@pytest.mark.parametrize("how", ENDS_THE_WAITING)
def test_a_step_that_nobody_is_asked_about_pages_nobody(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """What ends the waiting comes in the same activation as the failure: no error, no metric, no reminder."""

    @flow
    async def body() -> None:
        async with new_saga(
            on_step_failure="park", park_reminder=("tell", HOUR), deadline=HOUR if how == "deadline" else None
        ) as saga:
            step = do(saga, "b")
            if how == "sibling":
                await asyncio.gather(step, do(saga, "s", compensation=None, on_step_failure="raise"))
            elif how == "timeout":
                await asyncio.wait_for(step, 3600)
            else:
                await step

    for last in (False, True):
        caplog.clear()
        run = Run(body).start()
        ends = cancel() if how == "cancel" else failed("s", REFUSED) if how == "sibling" else timer()
        with caplog.at_level(logging.INFO):
            run.activate(*[failed("b", REFUSED), ends][:: -1 if last else 1])
        assert states(run)["b"] == ("UNKNOWN", "RUNNING")
        assert run.names == ["undo_b"]
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
        run.activate(completed("undo_b"))
        assert [activity.name for activity in run.scheduled if activity.name == "tell"] == []
        run.replay()


@pytest.mark.parametrize("plugins", [[], [SagaPlugin()]], ids=["without", "with"])
@pytest.mark.parametrize("drained_first", [True, False])
@pytest.mark.parametrize("how", ["cancel", "sibling", "timeout"])
def test_after_the_pivot_the_waiting_of_a_step_ends_as_before_it(
    how: str, drained_first: bool, plugins: list[Any]
) -> None:
    """A timeout around, and the drain of a sibling's failure, end it. The workflow's cancel waits for the saga."""

    @flow
    async def body() -> None:
        async with new_saga(on_step_failure="park") as saga:
            await do(saga, "a")
            saga.pivot()
            step = do(saga, "b")
            if how == "sibling":
                await asyncio.gather(step, do(saga, "s", compensation=None, on_step_failure="raise"))
            elif how == "timeout":
                await asyncio.wait_for(step, 3600)
            else:
                await step

    run = Run(body, plugins=plugins).start()
    run.activate(completed("a"))
    events = [failed("b", REFUSED), {"cancel": cancel, "sibling": lambda: failed("s", REFUSED)}.get(how, timer)()]
    for event in events[:: -1 if drained_first else 1]:
        run.activate(event)
    if how == "cancel":
        assert (states(run)["b"], run.names) == (("PARKED", "PENDING"), [])
        run.activate(decide(key_of(run, "b"), "give_up"))
    assert (states(run)["b"], run.names) == (("UNKNOWN", "RUNNING"), ["undo_b"])
    run.activate(completed("undo_b"))
    assert states(run)["a"] == ("APPLIED", None)
    assert end(run) in {"cancel": "ActivityError", "sibling": "ActivityError", "timeout": "TimeoutError"}[how]
    run.check()


def test_a_cancel_reaches_a_step_that_is_tried_again() -> None:
    run = Run(one_step()).start()
    run.activate(completed("a"))
    run.activate(failed("b", REFUSED))
    run.activate(decide(key_of(run, "b"), "retry"))
    run.activate(cancel())
    assert cancels(run) == ["b"]
    run.activate(cancelled("b"))
    assert states(run)["b"] == ("UNKNOWN", "RUNNING")
    run.activate(completed("undo_b"))
    run.activate(completed("undo_a"))
    assert end(run) == "Cancelled"
    run.check()


def test_a_step_that_never_left_the_worker_is_not_undone() -> None:
    """Rule 3, for a step that may park."""

    @flow
    async def body() -> None:
        async with new_saga(on_step_failure="park") as saga:
            await do(saga, "a")

    run = Run(body).start(cancel())
    assert end(run) == "Cancelled"
    assert undone(run) == []
    run.check()


@pytest.mark.parametrize("saga_parks", [True, False])
@pytest.mark.parametrize("call", ["raise", "park", None])
def test_the_call_decides_before_the_saga(saga_parks: bool, call: Any) -> None:
    options = {} if call is None else {"on_step_failure": call}

    @flow
    async def body() -> None:
        async with new_saga(on_step_failure="park" if saga_parks else "raise") as saga:
            await do(saga, "a", **options)

    run = Run(body).start()
    run.activate(failed("a", REFUSED))
    parks = saga_parks if call is None else call == "park"
    assert run.names == ([] if parks else ["undo_a"])


def test_a_child_that_failed_parks_and_runs_again_under_its_id() -> None:
    @flow
    async def body() -> Any:
        async with new_saga(on_step_failure="park") as saga:
            return await saga.execute_child_workflow("child", "x", compensation="undo_child")

    run = Run(body).start()
    (child,) = run.children
    run.activate(child_started(child.id))
    run.activate(child_failed(child.id, REFUSED))
    run.activate(decide(child.id.rpartition(":")[2], "retry"))
    assert [each.id for each in run.children] == [child.id]
    run.check()


# --- around it ---


def shown(run: Run) -> list[str | None]:
    """What the search attribute was set to; None where it was cleared."""
    fields = [
        command.upsert_workflow_search_attributes.search_attributes.indexed_fields["State"].data
        for activation in run.activations
        for command in activation.protos
        if command.HasField("upsert_workflow_search_attributes")
        and "State" in command.upsert_workflow_search_attributes.search_attributes.indexed_fields
    ]
    return [json.loads(data or b"null") for data in fields]


@pytest.mark.parametrize("how", ["savepoint", "undo", "state"])
def test_that_an_undo_has_failed_for_good_is_shown_at_once(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its saga ends INCOMPLETE, perhaps weeks later: till then somebody has to find it in the list of workflows."""
    monkeypatch.setattr(workflow, "patched", lambda _: True)  # the driver replays no marker
    state: list[SagaState] = []

    async def act(saga: Saga) -> None:
        with suppress(ApplicationError):
            if how == "savepoint":
                async with saga.savepoint() as attempt:
                    await do(attempt, "x")
                    raise REFUSED
            await do(saga, "x")
            await saga.undo("x")
        if how == "state":
            state.append(saga.detach())
            return
        await asyncio.sleep(3600)

    @flow
    async def later() -> None:
        async with new_saga(state=state[0]) as saga:
            with suppress(ApplicationError):
                async with saga.savepoint() as attempt:
                    await do(attempt, "y")
                    raise REFUSED
            await asyncio.sleep(3600)

    plugins = [SagaPlugin(search_attribute="State")]
    run = Run(scoped(act, names="", on_compensation_failure="continue"), plugins=plugins).start()
    run.activate(completed("x"))
    run.activate(failed("undo_x", REFUSED))
    begins: list[str | None] = ["UNWINDING", "INCOMPLETE"] if how == "savepoint" else ["INCOMPLETE"]
    assert shown(run) == begins
    if how == "state":  # the server hands the attribute on to the next run
        run = Run(later, plugins=plugins).start()
        run.activate(completed("y"))
        run.activate(completed("undo_y"))
        assert shown(run) == ["UNWINDING", "INCOMPLETE"]
    run.activate(timer())
    assert end(run) == "CompensationError"
    assert shown(run)[-1] == "INCOMPLETE"
    run.check()


async def _body_continues() -> None:
    async with new_saga(on_step_failure="park") as saga:
        step = asyncio.create_task(do(saga, "a", compensation=None))
        await asyncio.sleep(10)
        assert not step.done()
        workflow.continue_as_new()


async def _handler_continues() -> None:
    async def again() -> None:
        await asyncio.sleep(10)
        workflow.continue_as_new()

    workflow.set_signal_handler("again", again)
    async with new_saga(on_step_failure="park") as saga:
        await do(saga, "a", compensation=None)


async def _main_continues_under_a_saga_of_another_task() -> None:
    async def other() -> None:
        async with new_saga(on_step_failure="park") as saga:
            await do(saga, "a", compensation=None)

    task = asyncio.create_task(other())
    await asyncio.sleep(10)
    assert not task.done()
    workflow.continue_as_new()


async def _main_continues_after_a_generator() -> None:
    async def pages() -> AsyncIterator[None]:
        async with new_saga(on_step_failure="park") as saga:
            step = asyncio.create_task(do(saga, "a", compensation=None))
            await asyncio.sleep(10)
            assert not step.done()
            yield
            yield

    iterator = pages()
    await iterator.__anext__()
    await iterator.aclose()  # type: ignore[attr-defined]
    workflow.continue_as_new()


@pytest.mark.parametrize(
    "body",
    [
        _body_continues,
        _handler_continues,
        _main_continues_under_a_saga_of_another_task,
        _main_continues_after_a_generator,
    ],
)
def test_a_run_that_continues_as_new_hands_on_nothing_as_parked(
    body: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server hands on the search attribute and the memo, and in the next run nobody would ever clear them."""
    monkeypatch.setattr(workflow, "patched", lambda _: True)  # the driver replays no marker
    run = Run(flow(body), plugins=[SagaPlugin(search_attribute="State")]).start()
    if body is _handler_continues:
        run.activate(signal("again"))
    run.activate(failed("a", REFUSED))
    assert shown(run) == ["PARKED"]
    run.activate(timer())
    assert run.closed is not None
    assert run.closed[0] == "continue_as_new"
    assert shown(run)[-1] is None
    memos = [each.modify_workflow_properties.upserted_memo.fields for each in run.activations[-1].protos]
    assert [fields["saga_parked"].data for fields in memos if fields] == [b""]
    run.check()


def test_the_details_show_what_is_parked_and_then_what_they_showed_before() -> None:
    @flow
    async def body() -> list[str]:
        workflow.set_current_details("mine")
        shown: list[str] = []
        workflow.set_signal_handler("look", lambda: shown.append(workflow.get_current_details()))
        async with new_saga(on_step_failure="park") as saga:
            await do(saga, "a")
            await asyncio.gather(do(saga, "b"), do(saga, "c"))
        return [*shown, workflow.get_current_details()]

    run = Run(body).start()
    for event in (completed("a"), failed("b", REFUSED), failed("c", REFUSED)):
        run.activate(event)
    run.activate(signal("look"))
    run.activate(decide(key_of(run, "b"), "retry", update_id="1"))
    run.activate(completed("b"))
    run.activate(decide(key_of(run, "c"), "retry", update_id="2"))
    run.activate(completed("c"))
    waits = "(PARKED) → undo_{0}: **PENDING**, waits for a person: `saga_resolve` with key `{1}`"
    shown, end_of_all = run.result
    assert shown.split("\n")[0] == "Saga **saga**: 0 of 3 undone"
    for name in "bc":
        assert f"- **{name}** " + waits.format(name, key_of(run, name)) in shown
    assert end_of_all == "mine"
    run.check()


@pytest.mark.parametrize("other", ["park", "raise"])
@pytest.mark.parametrize("name", ["savepoint", "saga"])
def test_what_is_parked_is_not_hidden_behind_another_saga(other: str, name: str) -> None:
    """That was decided, or has unwound, while the first one still waits for a person."""
    shown: list[str] = []

    @flow
    async def body() -> None:
        async def second() -> None:
            async with new_saga("second", on_step_failure=other) as saga:
                if name == "saga":
                    await do(saga, "b")
                    return
                async with saga.savepoint() as attempt:
                    await do(attempt, "b")

        workflow.set_signal_handler("look", lambda: shown.append(workflow.get_current_details()))
        async with new_saga("first", on_step_failure="park") as saga:
            task = asyncio.create_task(second())
            await do(saga, "a")
        await asyncio.wait([task])

    run = Run(body).start()
    run.activate(failed("a", REFUSED))
    run.activate(failed("b", REFUSED))
    if other == "park":
        run.activate(decide(key_of(run, "b"), "retry", update_id="1"))
        run.activate(completed("b"))
    else:
        run.activate(completed("undo_b"))
    run.activate(signal("look"))
    assert shown[0].startswith("Saga **first**: 0 of 1 undone\n\n- **a** (PARKED)")
    run.activate(decide(key_of(run, "a"), "give_up", update_id="2"))
    run.activate(completed("undo_a"))
    run.check()


def test_the_details_come_back_though_another_saga_unwinds_meanwhile() -> None:
    """Whichever of the two was shown first."""

    @flow
    async def body() -> str:
        async def other() -> None:
            async with new_saga("other") as saga:
                await do(saga, "x")
                raise REFUSED

        workflow.set_current_details("mine")
        task = asyncio.create_task(other())
        async with new_saga(on_step_failure="park") as saga:
            await do(saga, "a")
        await asyncio.wait([task])
        return workflow.get_current_details()

    for events in itertools.permutations([failed("a", REFUSED), completed("x")]):
        run = Run(body).start()
        for event in events:
            run.activate(event)
        run.activate(completed("undo_x"))
        run.activate(decide(key_of(run, "a"), "retry"))
        run.activate(completed("a"))
        assert end(run) == "mine"


def test_detach_while_something_is_parked_is_misuse_that_says_so() -> None:
    async def act(saga: Saga) -> None:
        task = asyncio.create_task(do(saga, "b"))
        await asyncio.sleep(3600)
        saga.detach()
        await task

    run = Run(scoped(act, names="a", on_step_failure="park")).start()
    run.activate(completed("a"))
    run.activate(failed("b", REFUSED))
    run.activate(timer())
    assert run.task_failure is not None
    assert "detach() while something is parked (b): a person has to decide first" in str(run.task_failure[2])


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("what", ["undo", "step"])
def test_a_handler_of_that_name_is_misuse(what: str, later: bool) -> None:
    """Before the saga, or registered once it is open: it would be replaced without a word."""

    @flow
    async def body() -> None:
        if not later:
            workflow.set_update_handler("saga_resolve", lambda: None)
        async with new_saga(**{f"on_{'compensation' if what == 'undo' else 'step'}_failure": "park"}) as saga:
            call = do(saga, "a")
            if later:
                workflow.set_update_handler("saga_resolve", lambda: None)
            await call
            raise REFUSED

    run = Run(body).start()
    if later:
        if what == "undo":
            run.activate(completed("a"))
        run.activate(failed("undo_a" if what == "undo" else "a", REFUSED))
    assert run.task_failure is not None
    assert "rename the handler" in str(run.task_failure[2])


@pytest.mark.parametrize("action", ["retry", "give_up"])
def test_who_has_decided_and_why_goes_on_with_a_detached_saga(action: str) -> None:
    """Of a step and of an undo; that an undo was given up, too. From one run to the next, and to the one after that."""
    state: list[SagaState] = []

    @flow
    async def first() -> None:
        async with new_saga(on_step_failure="park", on_compensation_failure="park") as saga:
            await do(saga, "a")
            await do(saga, "b")
            with suppress(CompensationError):
                await saga.undo("b")
            state.append(saga.detach())

    @flow
    async def later() -> None:
        async with new_saga(state=state[-1]) as saga:
            await asyncio.sleep(1)
            again = saga.detach()
            assert again.decided == state[-1].decided
            state.append(again)

    run = Run(first).start()
    run.activate(failed("a", REFUSED))
    run.activate(decide(key_of(run, "a"), "retry", "ann", "it was down", update_id="1"))
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(failed("undo_b", REFUSED))
    run.activate(decide(key_of(run, "b"), action, "bob", "no way", update_id="2"))
    if action == "retry":
        run.activate(completed("undo_b"))
    assert run.closed is not None, run.task_failure
    decided = {"a": ("PENDING", "ann", "it was down")}
    if action == "give_up":
        decided["b"] = ("GIVEN_UP", "bob", "no way")
    for _ in range(2):
        run = Run(later).start()
        seen = {step["name"]: (step["undo_state"], step["who"], step["why"]) for step in report(run)["steps"]}
        assert seen == decided
        run.activate(timer())
        assert run.closed is not None, run.task_failure


def test_a_state_of_before_there_were_decisions_can_be_read() -> None:
    plain = DataConverter.default.payload_converter
    state = SagaState(2, "saga", 1, str(uuid4()), 0, {}, {}, past_pivot=False, deadline=None)
    written = json.loads(plain.to_payload(state).data)
    del written["decided"]
    (payload,) = plain.to_payloads([written])
    assert plain.from_payload(payload, SagaState) == state


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"on_step_failure": "wait"}, 'on_step_failure must be "raise" or "park"; got \'wait\''),
        ({"on_compensation_failure": "raise"}, 'on_compensation_failure must be "continue" or "park"; got \'raise\''),
        ({"park_reminder": "tell"}, "park_reminder= must be an activity and an interval"),
        ({"park_reminder": ("tell", 60)}, "park_reminder= must be an activity and an interval"),
        ({"park_reminder": ("tell", timedelta(0))}, "must be positive"),
        ({"park_reminder": ("", HOUR)}, "must be a non-empty string"),
        ({"park_reminder": (len, HOUR)}, "'len' is not an activity"),
        ({"park_reminder": (takes_nothing, HOUR)}, "'takes_nothing' takes 0 argument(s)"),
    ],
)
def test_options_are_checked_where_they_are_written(options: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        Saga(**options)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["", 5, SearchAttributeKey.for_keyword("SagaState")])
def test_the_search_attribute_is_given_by_its_name(name: Any) -> None:
    with pytest.raises(TypeError, match='Write search_attribute="SagaState"'):
        SagaPlugin(search_attribute=name)


@pytest.mark.parametrize("works", [True, False])
def test_a_reminder_tells_at_once_and_then_each_time_the_interval_has_passed(works: bool) -> None:
    """It ends with the decision. That it fails changes nothing."""
    run = Run(scoped(park_reminder=("tell", HOUR)))
    key = parked_undo(run)
    for number in (1, 2, 3):
        (reminder,) = run.activities
        notice = Parked("saga", "b", key, "undo", "Refused", number)
        assert reminder.args == [vars(notice)]
        run.activate(completed("tell") if works else failed("tell", REFUSED))
        run.activate(timer())
    run.activate(decide(key, "done_by_hand"))
    run.autopilot({})
    assert [activity.name for activity in run.scheduled].count("tell") == 4
    assert end(run) == "Refused"
    run.check()


class _NoParked(JSONPlainPayloadConverter):
    def to_payload(self, value: Any) -> Any:
        if isinstance(value, Parked):
            raise TypeError("no")
        return super().to_payload(value)


class _Picky(CompositePayloadConverter):
    def __init__(self) -> None:
        plain = DefaultPayloadConverter.default_encoding_payload_converters
        super().__init__(*[_NoParked() if isinstance(each, JSONPlainPayloadConverter) else each for each in plain])


def test_a_reminder_that_cannot_be_sent_is_told_each_time(caplog: pytest.LogCaptureFixture) -> None:
    """The data converter cannot write a `Parked`. What is parked waits on, and is decided."""
    converter = DataConverter(payload_converter_class=_Picky)
    run = Run(scoped(park_reminder=("tell", HOUR)), data_converter=converter)
    key = parked_undo(run)
    run.activate(timer())
    assert sum("the reminder that step 'b'" in record.getMessage() for record in caplog.records) == 2
    run.activate(decide(key, "done_by_hand"))
    run.activate(completed("undo_a"))
    assert end(run) == "Refused"
    run.check()


@pytest.mark.parametrize("count", [20, 21, 60])
def test_what_names_all_that_is_parked_is_short(count: int) -> None:
    """The memo, which is written again with each decision, and the message of a decision that is rejected."""

    @flow
    async def body() -> None:
        async with new_saga(on_step_failure="park") as saga:
            await asyncio.gather(*[do(saga, f"s{number:03}") for number in range(count)])

    run = Run(body).start()
    run.activate(*[failed(f"s{number:03}", REFUSED) for number in range(count)])
    names = [f"s{number:03}" for number in range(20)] + ([f"and {count - 20} more"] if count > 20 else [])
    memos = [each.modify_workflow_properties.upserted_memo for each in run.activations[-1].protos]
    assert [json.loads(memo.fields["saga_parked"].data) for memo in memos] == [names]
    run.activate(decide("nobody", "retry", update_id="1"))
    assert len(str(rejection(run))) < 1500
    run.activate(decide(key_of(run, "s000"), "retry", update_id="2"))
    (memo,) = [each for each in run.activations[-1].protos if each.HasField("modify_workflow_properties")]
    left = json.loads(memo.modify_workflow_properties.upserted_memo.fields["saga_parked"].data)
    assert left[:19] == names[1:20]
    assert len(left) == min(count - 1, 20) + (count - 1 > 20)


def test_the_cost_of_parking_is_linear() -> None:
    """Many steps park in one activation: their timeouts may pass together. The SDK gives an activation 2 s."""
    shown: list[int] = []

    def spent(count: int) -> int:
        @flow
        async def body() -> None:
            async with new_saga(on_step_failure="park", on_compensation_failure="park", order="concurrent") as saga:
                await asyncio.gather(*[do(saga, f"s{number}") for number in range(count)])

        run = Run(body).start()
        before = len(shown)
        for events in ([failed(f"s{number}", REFUSED) for number in range(count)], [cancel()]):
            run.activate(*events)
        run.activate(*[failed(f"undo_s{number}", REFUSED) for number in range(count)])
        return len(shown) - before

    report = Step.report

    def counted(step: Step) -> Any:
        shown.append(1)
        return report(step)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Step, "report", counted)
        assert spent(120) < 2.5 * spent(60)


@pytest.mark.parametrize("single_batch", [False, True])
@pytest.mark.parametrize("decided_first", [False, True])
@pytest.mark.parametrize("works", [True, False, None])
def test_a_reminder_that_runs_when_a_person_decides_is_the_last(
    works: bool | None, decided_first: bool, single_batch: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is cancelled. Nobody is told any more, and nothing is logged, though it ends well, badly or cancelled.

    Nor does asyncio log that nobody has seen its error, with the error's details (rule 11).
    """
    run = Run(scoped(park_reminder=("tell", HOUR)), single_batch=single_batch)
    key = parked_undo(run)
    ends = [] if works is None else [completed("tell") if works else failed("tell", REFUSED)]
    caplog.clear()
    run.activate(*[decide(key, "done_by_hand"), *ends][:: 1 if decided_first else -1])
    assert (run.names, run.timers) == (["undo_a"], [])
    run.activate(completed("undo_a"))
    assert end(run) == "Refused"
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    run.replay()


def test_what_is_parked_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """With its step, its key, the type of the error, and what to do; no details of the error (rule 11)."""
    with caplog.at_level(logging.INFO):
        run = Run(scoped())
        key = parked_undo(run)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    (record,) = errors
    for part in ("saga", "'b'", key, "Refused", "saga_resolve", "temporal-saga resolve"):
        assert part in record.getMessage()
    assert "refused" not in record.getMessage()
    assert (vars(record)["step"], vars(record)["key"]) == ("b", key)
    run.activate(decide(key, "done_by_hand"))


@pytest.mark.parametrize("what", ["step", "undo"])
def test_the_task_that_parks_something_has_a_command_of_its_own(what: str) -> None:
    """Else the SDK's core hands the decision over before what failed, once another worker replays (rule 9).

    Seen in the memo meanwhile, and not after.
    """
    run = Run(one_step() if what == "step" else scoped()).start()
    run.activate(completed("a"))
    if what == "undo":
        run.activate(completed("b"))
    for number in range(2):
        run.activate(failed("b" if what == "step" else "undo_b", REFUSED))
        assert len(run.activations[-1].protos) == 1
        command = run.activations[-1].protos[0]
        assert command.modify_workflow_properties.upserted_memo.fields["saga_parked"].data == b'["b"]'
        run.activate(decide(key_of(run, "b"), "retry", update_id=f"u{number}"))
        (memo,) = [each for each in run.activations[-1].protos if each.HasField("modify_workflow_properties")]
        assert memo.modify_workflow_properties.upserted_memo.fields["saga_parked"].data == b""
    run.check()


@pytest.mark.parametrize("what", ["step", "undo"])
@pytest.mark.parametrize("at", range(5))
def test_eviction_and_another_worker_change_nothing(at: int, what: str) -> None:
    """At each point of the life of what is parked; a fresh worker replays, and goes on."""
    run = Run(one_step() if what == "step" else scoped()).start()
    key = key_of(run, "a")

    def decided(number: int, action: str) -> Any:
        return decide(key_of(run, "b"), action, update_id=f"u{number}")

    waiting = "b" if what == "step" else "undo_b"
    first: list[Callable[[], Any]] = [lambda: completed("a")]
    if what == "undo":
        first.append(lambda: completed("b"))
    events: list[Callable[[], Any]] = [
        *first,
        lambda: failed(waiting, REFUSED),
        lambda: decided(1, "retry"),
        lambda: failed(waiting, REFUSED),
        lambda: decided(2, "give_up"),
    ]
    for number, event in enumerate(events):
        if number == at:
            run.restart()
        run.activate(event())
    run.autopilot({})
    assert end(run) == ("ActivityError" if what == "step" else "CompensationError")
    assert states(run)["a"] == ("APPLIED", "DONE")
    assert key == key_of(run, "a")
    run.check()


def test_all_orders_of_a_failure_a_decision_and_a_cancel() -> None:
    """In one activation or several: the undo is decided once, and the rest is undone."""
    for batches in itertools.product([False, True], repeat=2):
        run = Run(scoped()).start()
        run.activate(completed("a"))
        run.activate(completed("b"))
        run.activate(failed("undo_b", REFUSED), *([cancel()] if batches[0] else []))
        key = key_of(run, "b")
        run.activate(decide(key, "done_by_hand"), *([cancel()] if batches[1] and not batches[0] else []))
        run.activate(completed("undo_a"))
        assert states(run) == {"a": ("APPLIED", "DONE"), "b": ("APPLIED", "BY_HAND")}
        assert end(run) == "Refused"
        run.check()
