"""The simulator runs workflows as the server does: timers, messages, children, further runs, replay."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowFailureError, WorkflowQueryFailedError, WorkflowUpdateFailedError
from temporalio.common import RetryPolicy, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.converter import DataConverter, PayloadCodec
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    TerminatedError,
    TimeoutError,
    WorkflowAlreadyStartedError,
)
from temporalio.service import RPCError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

from temporal_saga import Saga
from temporal_saga.testing import SimulatedHandle, SimulationError, UnsupportedError, cancel, restart, simulate

SECOND = timedelta(seconds=1)


def cause(simulation: Any) -> Any:
    with pytest.raises(WorkflowFailureError) as failure:
        simulation.result()
    return failure.value.cause


# --- time, randomness, info ---------------------------------------------------------------------


@workflow.defn
class Clock:
    @workflow.run
    async def run(self) -> list[Any]:
        seen: list[Any] = [workflow.now(), workflow.random().random(), workflow.uuid4()]
        await asyncio.sleep(3600)
        try:
            await workflow.wait_condition(lambda: False, timeout=60)
        except asyncio.TimeoutError:
            seen.append("timeout")
        info = workflow.info()
        return [str(each) for each in (*seen, workflow.now(), info.start_time, info.workflow_id, info.run_id)]


def test_the_clock_is_virtual_and_all_is_the_same_each_time() -> None:
    start = datetime(2024, 2, 29, tzinfo=timezone.utc)
    simulation = simulate(Clock.run, start_time=start, id="clock")
    result = simulation.result()
    assert result[0] == str(start)
    assert result[3] == "timeout"
    assert result[4] == str(start + timedelta(seconds=3660))
    assert result[6] == "clock"
    assert str(uuid.UUID(result[7])) == result[7]
    assert simulation.duration == timedelta(seconds=3660)
    again = simulate(Clock.run, start_time=start, id="clock")
    assert again.result() == result
    assert again.trace == simulation.trace
    assert simulate(Clock.run, id="other").result()[1:3] != result[1:3]
    assert simulation.check_replay() is None
    assert simulation.commands[:2] == [("start_timer", 3600.0), ("start_timer", 60.0)]


@workflow.defn
class Race:
    @workflow.run
    async def run(self) -> str:
        timer = asyncio.create_task(asyncio.sleep(10))
        await asyncio.sleep(5)
        timer.cancel()
        return "cancelled a timer"


def test_a_cancelled_timer_takes_no_time() -> None:
    simulation = simulate(Race.run)
    assert simulation.duration == 5 * SECOND
    assert ("cancel_timer", 10.0) in simulation.commands


# --- messages -----------------------------------------------------------------------------------


@workflow.defn
class Box:
    def __init__(self) -> None:
        self.items: list[str] = []
        self.done = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.done)
        return self.items

    @workflow.signal
    def put(self, item: str) -> None:
        self.items.append(item)

    @workflow.signal(name="close")
    async def close_it(self) -> None:
        await asyncio.sleep(1)
        self.done = True

    @workflow.query
    def count(self) -> int:
        if not self.items:
            raise ValueError("empty")
        return len(self.items)

    @workflow.update
    async def swap(self, item: str) -> str:
        await asyncio.sleep(2)
        if item == "bad":
            raise ApplicationError("bad item")
        before, self.items[-1] = self.items[-1], item
        return before

    @swap.validator
    def _check(self, item: str) -> None:
        if not self.items:
            raise ValueError("nothing to swap")


def test_signals_queries_and_updates() -> None:
    seen: list[Any] = []

    async def client(handle: Any) -> None:
        with pytest.raises(WorkflowQueryFailedError, match="empty"):
            await handle.query(Box.count)
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update(Box.swap, "early")
        seen.append(refused.value.cause)
        await handle.signal(Box.put, "a")
        await handle.signal("put", "b")
        seen.append(await handle.query(Box.count))
        seen.append(await handle.execute_update(Box.swap, "c"))
        with pytest.raises(WorkflowUpdateFailedError, match="Workflow update failed"):
            await handle.execute_update("swap", "bad")
        update = await handle.start_update(Box.swap, "d")
        seen.append(await update.result())
        await asyncio.sleep(3600)
        await handle.signal(Box.close_it)
        seen.append(await handle.result())
        with pytest.raises(RPCError, match="already completed"):
            await handle.signal(Box.put, "late")
        seen.append(await handle.query(Box.count))

    simulation = simulate(Box.run, client=client)
    assert simulation.result() == ["a", "d"]
    refused, *rest = seen
    assert isinstance(refused, ApplicationError)
    assert refused.message == "nothing to swap"
    assert rest == [2, "b", "c", ["a", "d"], 2]
    assert simulation.duration == timedelta(seconds=3607)
    assert simulation.check_replay() is None


def test_a_run_that_waits_for_ever_says_for_what() -> None:
    simulation = simulate(Box.run)
    assert simulation.status == "waiting"
    assert simulation.waiting_for == "a condition, or a signal or update that never comes"
    with pytest.raises(SimulationError, match="never ends: it waits for a condition"):
        simulation.result()


def test_cancel_and_terminate() -> None:
    async def cancels(handle: Any) -> None:
        await asyncio.sleep(60)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()

    simulation = simulate(Box.run, client=cancels)
    assert simulation.status == "cancelled"
    assert isinstance(cause(simulation), CancelledError)
    assert simulation.duration == timedelta(minutes=1)

    async def terminates(handle: Any) -> None:
        await handle.terminate(reason="enough")

    simulation = simulate(Box.run, client=terminates)
    assert simulation.status == "terminated"
    assert isinstance(cause(simulation), TerminatedError)


def test_an_error_in_the_client_is_raised() -> None:
    async def client(handle: Any) -> None:
        await handle.signal(Box.close_it)
        raise AssertionError("what the test found")

    with pytest.raises(AssertionError, match="what the test found"):
        simulate(Box.run, client=client)


def test_a_client_that_waits_for_ever_is_an_error() -> None:
    async def client(handle: Any) -> None:
        await handle.signal(Box.close_it)
        await asyncio.Event().wait()

    with pytest.raises(SimulationError, match="the client's function waits"):
        simulate(Box.run, client=client)


def test_timeouts_of_the_workflow() -> None:
    for simulation in (simulate(Box.run, run_timeout=5 * SECOND), simulate(Box.run, execution_timeout=5 * SECOND)):
        assert simulation.status == "timed out"
        assert simulation.duration == 5 * SECOND
        assert isinstance(cause(simulation), TimeoutError)


# --- children and other workflows ---------------------------------------------------------------


@workflow.defn
class Nap:
    @workflow.run
    async def run(self, duration: float, error: str) -> str:
        try:
            await asyncio.sleep(duration)
        except asyncio.CancelledError:
            await asyncio.sleep(2)
            raise
        if error:
            raise ApplicationError(error, type=error)
        info = workflow.info()
        assert info.parent is not None
        assert info.root is not None
        return f"{info.workflow_id} of {info.parent.workflow_id}"


@workflow.defn
class Parent:
    @workflow.run
    async def run(self, duration: float, error: str, options: dict[str, int]) -> str:
        return await workflow.execute_child_workflow(
            Nap.run,
            args=[duration, error],
            id="nap",
            cancellation_type=ChildWorkflowCancellationType(options.get("cancellation", 2)),
            parent_close_policy=ParentClosePolicy(options.get("close", 1)),
        )


def test_a_child_runs_and_returns() -> None:
    simulation = simulate(Parent.run, 5.0, "", {}, workflows=[Nap], id="parent")
    assert simulation.result() == "nap of parent"
    assert simulation.duration == 5 * SECOND
    assert simulation.activations == 3, "the children's are not counted"
    assert simulation.check_replay() is None


def test_a_child_fails() -> None:
    error = cause(simulate(Parent.run, 5.0, "Boom", {}, workflows=[Nap]))
    assert isinstance(error, ChildWorkflowError)
    assert (error.workflow_id, error.workflow_type) == ("nap", "Nap")
    assert isinstance(error.cause, ApplicationError)
    assert error.cause.type == "Boom"


def test_an_unregistered_child_is_named() -> None:
    with pytest.raises(SimulationError, match=r"workflow 'Nap' is not registered; registered: Parent"):
        simulate(Parent.run, 5.0, "", {})


@pytest.mark.parametrize(
    ("kind", "closed"),
    [
        (ChildWorkflowCancellationType.ABANDON, 1.0),
        (ChildWorkflowCancellationType.TRY_CANCEL, 1.0),
        (ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED, 3.0),
        (ChildWorkflowCancellationType.WAIT_CANCELLATION_REQUESTED, 3.0),
    ],
)
def test_cancellation_types_of_a_child(kind: ChildWorkflowCancellationType, closed: float) -> None:
    async def client(handle: Any) -> None:
        await asyncio.sleep(1)
        await handle.cancel()

    options = {"cancellation": int(kind), "close": int(ParentClosePolicy.ABANDON)}
    simulation = simulate(Parent.run, 60.0, "", options, workflows=[Nap], client=client)
    assert simulation.status == "cancelled"
    ends = [event for event in simulation.trace if event.kind == "closed"]
    assert {event.label: event.time.total_seconds() for event in ends} == {
        "Parent": closed,
        # A parent that does not wait closes in the task in which it cancels: the server drops that cancel.
        "Nap": 3.0 if closed == 3.0 else 60.0,
    }


@pytest.mark.parametrize(
    ("policy", "end", "time"),
    [
        (ParentClosePolicy.TERMINATE, "terminated", 1.0),
        (ParentClosePolicy.REQUEST_CANCEL, "cancelled", 3.0),
        (ParentClosePolicy.ABANDON, "completed", 60.0),
    ],
)
def test_parent_close_policies(policy: ParentClosePolicy, end: str, time: float) -> None:
    async def client(handle: Any) -> None:
        await asyncio.sleep(1)
        await handle.terminate()

    simulation = simulate(Parent.run, 60.0, "", {"close": int(policy)}, workflows=[Nap], client=client)
    (child,) = [event for event in simulation.trace if event.kind == "closed" and event.label == "Nap"]
    assert child.detail.split(" (")[0] == end
    assert child.time.total_seconds() == time


@workflow.defn
class Twice:
    @workflow.run
    async def run(self) -> str:
        await workflow.start_child_workflow(Nap.run, args=[5.0, ""], id="nap")
        try:
            await workflow.start_child_workflow(Nap.run, args=[5.0, ""], id="nap")
        except WorkflowAlreadyStartedError as error:
            return f"{error.workflow_id} {error.workflow_type}"
        return "started twice"


def test_a_child_that_has_already_started() -> None:
    assert simulate(Twice.run, workflows=[Nap]).result() == "nap Nap"


@workflow.defn
class Messenger:
    @workflow.run
    async def run(self) -> list[str]:
        child = await workflow.start_child_workflow(Box.run, id="box")
        await child.signal(Box.put, "from the handle")
        external: workflow.ExternalWorkflowHandle[Box] = workflow.get_external_workflow_handle_for(Box.run, "box")
        await external.signal(Box.put, "from outside")
        seen = []
        try:
            await workflow.get_external_workflow_handle("nobody").signal("put", "x")
        except ApplicationError as error:
            seen.append(error.message)
        try:
            await workflow.get_external_workflow_handle("nobody").cancel()
        except ApplicationError as error:
            seen.append(error.message)
        await external.signal("close")
        seen += await child
        other = await workflow.start_child_workflow(Box.run, id="other")
        await workflow.get_external_workflow_handle("other").cancel()
        try:
            await other
        except ChildWorkflowError as error:
            seen.append(type(error.cause).__name__)
        return seen


def test_signals_and_cancels_between_workflows() -> None:
    simulation = simulate(Messenger.run, workflows=[Box])
    assert simulation.result() == [
        "Unable to signal external workflow because it was not found",
        "Unable to cancel external workflow because not found",
        "from the handle",
        "from outside",
        "CancelledError",
    ]
    assert simulation.check_replay() is None


@activity.defn
async def effect(name: str) -> str:
    return name


@workflow.defn
class Step:
    @workflow.run
    async def run(self, name: str) -> str:
        async with Saga() as saga:
            return await saga.execute_activity(effect, name, compensation=effect, start_to_close_timeout=SECOND)


@workflow.defn
class SagaOfChildren:
    @workflow.run
    async def run(self) -> None:
        async with Saga() as saga:
            await saga.execute_child_workflow(Step.run, "x", compensation=Step.run)
            raise ApplicationError("no")


def test_the_calls_of_a_saga_tell_their_steps() -> None:
    simulation = simulate(SagaOfChildren.run, workflows=[Step], activities=[effect])
    assert simulation.status == "failed"
    assert [(c.kind, c.label, c.phase, c.state) for c in simulation.calls] == [
        ("child", "Step", "do", "completed"),
        ("activity", "effect", "do", "completed"),
        ("child", "Step:undo", "undo", "completed"),
        ("activity", "effect", "do", "completed"),
    ]
    first, undo = simulation.calls[0], simulation.calls[2]
    assert undo.forward_key == first.key
    assert undo.key != first.key
    assert [report.state for report in simulation.reports] == ["COMPENSATED", "COMPLETED", "COMPLETED"]


# --- further runs -------------------------------------------------------------------------------


@workflow.defn
class Counter:
    @workflow.run
    async def run(self, count: int) -> str:
        await asyncio.sleep(1)
        info = workflow.info()
        if count < 3:
            workflow.continue_as_new(count + 1)
        assert info.continued_run_id not in (None, info.first_execution_run_id)
        return f"{count} {workflow.memo_value('note')} {info.attempt}"


def test_continue_as_new_is_followed() -> None:
    simulation = simulate(Counter.run, 1, memo={"note": "kept"})
    assert simulation.result() == "3 kept 1"
    assert simulation.duration == 3 * SECOND
    assert [command[0] for command in simulation.commands].count("continue_as_new") == 2
    assert simulation.check_replay() is None


@workflow.defn
class Stubborn:
    @workflow.run
    async def run(self, attempts: int) -> int:
        if workflow.info().attempt < attempts:
            raise ApplicationError("again", type="Again")
        return workflow.info().attempt


def test_a_workflow_has_a_retry_policy_too() -> None:
    simulation = simulate(Stubborn.run, 3, retry_policy=RetryPolicy(initial_interval=10 * SECOND))
    assert simulation.result() == 3
    assert simulation.duration == 30 * SECOND
    refused = simulate(Stubborn.run, 3, retry_policy=RetryPolicy(maximum_attempts=2))
    assert refused.status == "failed"
    assert refused.duration == SECOND


@workflow.defn
class Patched:
    @workflow.run
    async def run(self) -> str:
        if workflow.patched("new-way"):
            await asyncio.sleep(1)
            return "new"
        return "old"


def test_patches() -> None:
    simulation = simulate(Patched.run)
    assert simulation.result() == "new"
    assert ("patch", "new-way") in simulation.commands
    assert simulation.check_replay() is None


KEY = SearchAttributeKey.for_keyword("State")


@workflow.defn
class Labelled:
    @workflow.run
    async def run(self, first: bool) -> list[Any]:
        info = workflow.info()
        before = info.typed_search_attributes.get(KEY)
        if first:
            workflow.upsert_search_attributes([KEY.value_set("second")])
            workflow.upsert_memo({"more": [1, 2]})
            workflow.continue_as_new(False)
        return [before, workflow.memo_value("more", None), workflow.memo()]


def test_search_attributes_and_memo() -> None:
    attributes = TypedSearchAttributes([SearchAttributePair(KEY, "first")])
    simulation = simulate(Labelled.run, True, search_attributes=attributes, memo={"note": "x"})
    assert simulation.result() == ["second", None, {"note": "x"}], (
        "the next run starts with the memo that this one started with"
    )
    assert simulation.check_replay() is None


# --- tasks that fail ----------------------------------------------------------------------------


@workflow.defn
class Buggy:
    @workflow.run
    async def run(self) -> None:
        raise KeyError("a bug")


def test_a_bug_fails_the_workflow_task_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    simulation = simulate(Buggy.run)
    assert simulation.status == "waiting"
    assert simulation.task_failures == ["KeyError: 'a bug'"] * 2
    assert simulation.waiting_for == "its workflow task, which fails forever: KeyError: 'a bug'"
    with pytest.raises(SimulationError, match=r"calls of no activity; it waits for its workflow task, .*: 'a bug'"):
        simulate(Buggy.run, faults=[cancel(at=9)])
    closes = simulate(Buggy.run, failure_exception_types=[KeyError])
    assert closes.status == "failed"


_runs: list[int] = []


@workflow.defn(sandboxed=False)
class Unsteady:
    @workflow.run
    async def run(self) -> None:
        _runs.append(1)
        if len(_runs) > 1:
            await asyncio.sleep(1)
        await asyncio.sleep(5)


def test_a_replay_that_differs_is_told() -> None:
    _runs.clear()
    simulation = simulate(Unsteady.run)
    assert simulation.status == "completed"
    difference = simulation.check_replay()
    assert difference is not None
    assert "gave [('start_timer', 5.0)], and replayed [('start_timer', 1.0)]" in difference


@workflow.defn
class Endless:
    @workflow.run
    async def run(self) -> None:
        while True:
            await workflow.execute_activity(effect, "x", start_to_close_timeout=SECOND)


def test_an_endless_workflow_is_stopped() -> None:
    with pytest.raises(SimulationError, match="no end after 50 activations"):
        simulate(Endless.run, activities=[effect], max_activations=50)


@workflow.defn
class Local:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_local_activity(effect, "x", start_to_close_timeout=SECOND)


def test_a_local_activity_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="a local activity cannot be simulated"):
        simulate(Local.run, activities=[effect])


# --- converters and the sandbox -----------------------------------------------------------------


class Secret(PayloadCodec):
    """Turns the bytes around, behind an `await`."""

    def __init__(self) -> None:
        self.encoded = self.decoded = 0

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        await asyncio.sleep(0.001)
        self.encoded += len(payloads)
        return [Payload(metadata={"encoding": b"secret"}, data=p.SerializeToString()[::-1]) for p in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        self.decoded += len(payloads)
        for payload in payloads:
            assert payload.metadata["encoding"] == b"secret"
        return [Payload.FromString(payload.data[::-1]) for payload in payloads]


@workflow.defn
class Everything:
    @workflow.run
    async def run(self, name: str) -> str:
        async with Saga() as saga:
            first = await saga.execute_activity(effect, name, compensation=effect, start_to_close_timeout=SECOND)
            child = await saga.execute_child_workflow(Step.run, first, compensation=Step.run)
            try:
                await workflow.execute_activity(refuse, start_to_close_timeout=SECOND)
            except ActivityError as error:
                cause: Any = error.cause
                return f"{child} {cause.details[0]} {workflow.memo_value('note')}"
        return "not reached"


@activity.defn
async def refuse() -> None:
    raise ApplicationError("no", "secret detail", non_retryable=True)


def test_a_payload_codec_is_used_on_every_way() -> None:
    codec = Secret()
    converter = dataclasses.replace(DataConverter.default, payload_codec=codec)
    simulation = simulate(
        Everything.run,
        "x",
        workflows=[Step],
        activities=[effect, refuse],
        data_converter=converter,
        memo={"note": "hidden"},
    )
    assert simulation.result() == "x secret detail hidden"
    assert codec.encoded >= 9
    assert codec.decoded >= 9
    assert simulation.commands[0][3] == ["x"]
    assert simulation.check_replay() is None


def test_in_the_sandbox() -> None:
    simulation = simulate(
        Everything.run, "x", workflows=[Step], activities=[effect, refuse], memo={"note": "y"}, sandboxed=True
    )
    assert simulation.result() == "x secret detail y"
    assert sorted(report.state for report in simulation.reports) == ["COMPLETED", "COMPLETED"]
    assert simulation.check_replay() is None


def test_it_can_be_called_where_a_loop_runs() -> None:
    async def outer() -> Any:
        before = asyncio.get_running_loop()
        result = simulate(Clock.run).result()
        assert asyncio.get_running_loop() is before
        await asyncio.sleep(0)
        return result

    assert asyncio.run(outer())[3] == "timeout"


def test_nothing_is_left_to_be_destroyed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        simulate(Box.run)
    assert caplog.records == []


@workflow.defn
class Inbox:
    """Ends with an activity; what has arrived by then is read."""

    def __init__(self) -> None:
        self.items: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.execute_activity("ring", start_to_close_timeout=SECOND)
        return self.items

    @workflow.signal
    def put(self, item: str) -> None:
        self.items.append(item)


def test_a_signal_that_was_accepted_is_not_lost() -> None:
    accepted = []
    for turns in range(10):
        bell = asyncio.Event()

        @activity.defn
        async def ring(bell: asyncio.Event = bell) -> None:
            bell.set()

        async def client(handle: Any, bell: asyncio.Event = bell, turns: int = turns) -> bool:
            await bell.wait()
            for _ in range(turns):  # to the moment at which the activity ends, and the workflow with it
                await asyncio.sleep(0)
            try:
                await handle.signal(Inbox.put, "x")
            except RPCError:
                accepted.append(False)
            else:
                accepted.append(True)
            return True

        assert simulate(Inbox.run, activities=[ring], client=client).result() == ["x"] * accepted[-1]
    assert set(accepted) == {True, False}


# --- what a client asks ---------------------------------------------------------------------------


@workflow.defn
class Described:
    @workflow.run
    async def run(self) -> None:
        workflow.upsert_memo({"more": 1, "note": None})
        workflow.upsert_search_attributes([KEY.value_set("now")])
        await workflow.sleep(60)

    @workflow.query
    def numbers(self) -> list[int]:
        return [1, 2]


def test_c14_describe_and_result_type() -> None:
    """A client is told of a run as it is, and may name the type of a query's answer."""
    seen: list[Any] = []

    async def client(handle: SimulatedHandle[None]) -> None:
        await asyncio.sleep(1)
        for _ in range(2):
            told = await handle.describe()
            seen.append((told.status.name, await told.memo(), told.typed_search_attributes.get(KEY)))
            seen.append((told.id, told.run_id == handle.run_id, told.workflow_type, told.parent_id))
            seen.append(None if told.close_time is None else (told.close_time - told.start_time).total_seconds())
            seen.append(told.history_length)
            await handle.result()
        seen.append(await handle.query("numbers", result_type=tuple[int, ...]))
        seen.append(await handle.query("numbers"))

    simulate(Described.run, client=client, memo={"note": "x", "kept": 2})
    labels = {"kept": 2, "more": 1}
    whose = ("workflow", True, "Described", None)
    assert seen[:3] == [("RUNNING", labels, "now"), whose, None]
    assert seen[4:7] == [("COMPLETED", labels, "now"), whose, 60.0]
    assert seen[3] < seen[7]
    assert seen[8:] == [(1, 2), [1, 2]]


def test_c14_the_old_branch_of_a_patch() -> None:
    """A run that began before a patch takes the old branch, to its end and in a replay."""
    simulation = simulate(Patched.run, without_patches=["new-way"])
    assert simulation.result() == "old"
    assert ("patch", "new-way") not in simulation.commands
    assert simulation.check_replay() is None
    assert simulate(Patched.run, without_patches=["another"]).result() == "new"
    again = simulate(Patched.run, without_patches=["new-way"], faults=[restart(at=1)])
    assert again.replay_difference is None
