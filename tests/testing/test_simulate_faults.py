"""What each fault does to a run, and what `simulate` says of it."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import tracemalloc
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, TimeoutType

from temporal_saga import Declined, Saga, current_step
from temporal_saga.testing import (
    Fault,
    Simulation,
    SimulationError,
    applies_late,
    bug_after,
    cancel,
    cancel_scope,
    cancel_with,
    delivered_late,
    delivered_twice,
    fails_after,
    fails_before,
    fails_once,
    restart,
    signal,
    simulate,
    slow,
    update,
    worker_lost,
    worker_lost_inside,
)

SECOND = timedelta(seconds=1)
OPTIONS: Any = {"start_to_close_timeout": 10 * SECOND, "retry_policy": RetryPolicy(maximum_attempts=3)}


class Ledger:
    """Notes each effect, with its key."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.keys: list[str] = []

    @activity.defn
    async def book(self, name: str) -> str:
        self._enter(name)
        return f"booked {name}"

    @activity.defn
    def cancel_booking(self, name: str) -> None:
        self._enter(f"-{name}")

    def _enter(self, entry: str) -> None:
        self.entries.append(entry)
        self.keys.append(current_step().key)


@workflow.defn
class Trip:
    """Books a flight, a car and a hotel, one after the other."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @workflow.run
    async def run(self) -> str:
        async with Saga(activity_options=OPTIONS) as saga:
            for name in ("flight", "car", "hotel"):
                await saga.execute_activity_method(Ledger.book, name, step=name, compensation=Ledger.cancel_booking)
        return " ".join(["done", *self.notes])

    @workflow.signal
    def note(self, text: str) -> None:
        self.notes.append(text)

    @workflow.update
    def noted(self, text: str) -> int:
        self.notes.append(text)
        return len(self.notes)


@workflow.defn
class Once:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity("book", "flight", **OPTIONS)


@workflow.defn
class HandWritten:
    """The tutorials' idiom: refunds whatever the error is."""

    @workflow.run
    async def run(self) -> None:
        done: list[str] = []
        try:
            for name in ("flight", "car"):
                done.append(name)
                await workflow.execute_activity("book", name, **OPTIONS)
        except Exception:
            for name in reversed(done):
                await workflow.execute_activity("refund", name, **OPTIONS)
            raise


def trip(*faults: Fault) -> tuple[Simulation[str], list[str]]:
    ledger = Ledger()
    simulation = simulate(Trip.run, activities=[ledger.book, ledger.cancel_booking], faults=faults)
    assert simulation.check_replay() is None
    assert simulation.faults == list(faults)
    return simulation, ledger.entries


def cause(simulation: Simulation[Any]) -> Any:
    with pytest.raises(WorkflowFailureError) as failure:
        simulation.result()
    return failure.value.cause


# --- activities ---------------------------------------------------------------------------------


def test_fails_before() -> None:
    simulation, entries = trip(fails_before("car"))
    assert entries == ["flight", "-car", "-flight"], "a failure that proves nothing is undone"
    error = cause(simulation)
    assert isinstance(error, ActivityError)
    assert isinstance(error.cause, ApplicationError)
    assert (error.cause.type, error.cause.non_retryable) == ("SimulatedFailure", True)
    (attempt,) = simulation.calls[1].attempts
    assert (attempt.ran, attempt.outcome) == (
        False,
        "failed: SimulatedFailure: simulated failure, its function did not run",
    )


def test_fails_after() -> None:
    simulation, entries = trip(fails_after("car"))
    assert entries == ["flight", "car", "-car", "-flight"]
    assert simulation.calls[1].attempts[0].ran
    assert simulation.calls[1].state == "failed"


def test_fails_once() -> None:
    simulation, entries = trip(fails_once("car"))
    assert entries == ["flight", "car", "hotel"]
    assert [(a.number, a.ran) for a in simulation.calls[1].attempts] == [(1, False), (2, True)]
    assert simulation.duration == SECOND


def test_slow() -> None:
    simulation, entries = trip(slow("car"))
    assert entries == ["flight", "car", "hotel"]
    assert simulation.duration == timedelta(seconds=9.999)
    simulation, entries = trip(slow("car"), cancel(at=3))
    assert entries == ["flight", "car", "-car", "-flight"], "in flight when the cancel came"
    assert simulation.status == "cancelled"


def test_applies_late() -> None:
    simulation, entries = trip(applies_late("car"))
    assert entries == ["flight", "-car", "-flight", "car"], "after all else: what a fence has to stop"
    error = cause(simulation)
    assert isinstance(error.cause, TimeoutError)
    assert error.cause.type is TimeoutType.START_TO_CLOSE
    first, late = simulation.calls[1].attempts
    assert (first.ran, first.late, late.ran, late.late) == (False, False, True, True)


def test_worker_lost() -> None:
    simulation, entries = trip(worker_lost("car"))
    assert entries == ["flight", "car", "car", "hotel"]
    first, second = simulation.calls[1].attempts
    assert (first.ran, first.outcome, second.outcome) == (True, "StartToClose timeout", "completed")
    assert first.ran_order is not None
    assert first.ended_order is not None
    assert first.ran_order < first.ended_order < second.began_order


def test_delivered_twice() -> None:
    simulation, entries = trip(delivered_twice("car"))
    assert entries == ["flight", "car", "car", "hotel"]
    assert [attempt.late for attempt in simulation.calls[1].attempts] == [False, True]
    assert "car     ! delivered again: its function ran" in str(simulation)


def test_a_second_delivery_is_told_apart_and_its_error_shows() -> None:
    infos: list[activity.Info] = []

    @activity.defn
    async def book(name: str) -> None:
        infos.append(activity.info())
        if len(infos) > 1:
            raise ApplicationError("there is one", type="Known")

    simulation = simulate(Once.run, activities=[book], faults=[delivered_twice("book")])
    assert simulation.status == "completed"
    first, second = infos
    assert first is not second
    assert first == second
    assert simulation.calls[0].attempts[1].outcome == "failed, late: Known: there is one"
    assert "! delivered again: its function raised Known: there is one" in str(simulation)


def test_delivered_late() -> None:
    simulation, entries = trip(fails_before("hotel"), delivered_late("car"))
    assert entries == ["flight", "car", "-hotel", "-car", "-flight", "car"], "after all else"
    first, late = simulation.calls[1].attempts
    assert (first.ran, first.late, late.ran, late.late) == (True, False, True, True)
    assert simulation.trace[-1].kind == "again"
    plain, _ = trip(fails_before("hotel"))
    assert list(map(repr, simulation.commands)) == list(map(repr, plain.commands)), "the workflow cannot see it"


def test_a_repeat_has_the_same_key() -> None:
    ledger = Ledger()
    simulate(Trip.run, activities=[ledger.book, ledger.cancel_booking], faults=[worker_lost("car")])
    assert ledger.keys[1] == ledger.keys[2]
    assert len(set(ledger.keys)) == 3


def test_bug_after_fails_the_task_and_a_fixed_deployment_goes_on() -> None:
    simulation, entries = trip(bug_after("car"))
    assert simulation.result() == "done"
    assert entries == ["flight", "car", "hotel"]
    assert simulation.task_failures == ["TypeError: simulated bug"]


def test_bug_after_shows_what_a_hand_written_handler_does() -> None:
    entries: list[str] = []

    @activity.defn
    async def book(name: str) -> None:
        entries.append(name)

    @activity.defn
    async def refund(name: str) -> None:
        entries.append(f"-{name}")

    simulation = simulate(HandWritten.run, activities=[book, refund], faults=[bug_after("book", nth=2)])
    assert entries == ["flight", "car", "-car", "-flight"], "refunded for a bug"
    # The TypeError that it raises again fails the task for ever: the failure stands in history.
    assert simulation.status == "waiting"
    assert "TypeError: simulated bug" in simulation.waiting_for


def test_compensations_have_labels_of_their_own() -> None:
    simulation, entries = trip(fails_before("hotel"), fails_once("car:undo"), worker_lost("flight:undo"))
    assert entries == ["flight", "car", "-hotel", "-car", "-flight", "-flight"]
    assert [call.label for call in simulation.calls] == [
        "flight",
        "car",
        "hotel",
        "hotel:undo",
        "car:undo",
        "flight:undo",
    ]
    assert [report.state for report in simulation.reports] == ["COMPENSATED"]
    simulation, _ = trip(fails_before("hotel"), fails_before("car:undo"))
    assert [report.state for report in simulation.reports] == ["INCOMPLETE"]
    assert cause(simulation).type == "CompensationError"


@workflow.defn
class SameTwice:
    @workflow.run
    async def run(self) -> list[str]:
        async with Saga(activity_options=OPTIONS) as saga:
            return await asyncio.gather(*[saga.execute_activity_method(Ledger.book, name) for name in ("a", "b", "c")])


def test_nth_counts_the_calls_with_one_label() -> None:
    ledger = Ledger()
    simulation = simulate(SameTwice.run, activities=[ledger.book], faults=[fails_once("book", nth=2)])
    assert simulation.result() == ["booked a", "booked b", "booked c"]
    assert ledger.entries == ["a", "c", "b"]
    assert [(call.label, call.nth, len(call.attempts)) for call in simulation.calls] == [
        ("book", 1, 1),
        ("book", 2, 2),
        ("book", 3, 1),
    ]


# --- activations --------------------------------------------------------------------------------


def test_cancel_finds_what_was_scheduled_started_and_not_run() -> None:
    states = {}
    for at in range(1, 5):
        simulation, entries = trip(cancel(at=at))
        assert simulation.status == "cancelled"
        assert simulation.cancel_requested
        states[at] = entries
    assert states == {
        1: [],
        2: ["flight", "-flight"],
        3: ["flight", "car", "-car", "-flight"],
        4: ["flight", "car", "hotel", "-hotel", "-car", "-flight"],
    }
    assert trip()[0].activations == 4
    assert not trip()[0].cancel_requested


def test_cancel_with_comes_behind_what_has_ended() -> None:
    states = {}
    for at in range(1, 5):
        simulation, entries = trip(cancel_with(at=at))
        assert simulation.status == "cancelled"
        assert simulation.cancel_requested
        states[at] = entries
    assert states == {
        1: [],
        2: ["flight", "-flight"],
        3: ["flight", "car", "-car", "-flight"],
        4: ["flight", "car", "hotel", "-hotel", "-car", "-flight"],
    }


def test_cancel_with_is_in_the_activation_of_the_result() -> None:
    simulation, _ = trip(cancel_with(at=2))
    jobs = [job.WhichOneof("variant") for job in simulation._main.run.cached.activations[1].request.jobs]
    assert jobs == ["resolve_activity", "cancel_workflow"]


@pytest.mark.parametrize("fault", [cancel(at=5), fails_before("boat"), fails_before("car", nth=2)])
def test_a_fault_that_never_comes_is_an_error(fault: Fault) -> None:
    with pytest.raises(SimulationError) as raised:
        trip(slow("car"), fault)
    assert str(raised.value) == (
        f"[{fault!r}] found nothing to strike: the run has 4 activations, and calls of flight, car, hotel; "
        "it ended completed"
    )


@pytest.mark.parametrize("faults", [fails_after("car"), cancel(at=2)])
def test_one_fault_is_no_list(faults: Any) -> None:
    with pytest.raises(TypeError, match=r"is one fault: give a list, faults=\[(fails_after\('car'\)|cancel\(at=2\))\]"):
        simulate(Trip.run, faults=faults)


def test_faults_may_be_any_iterable() -> None:
    ledger = Ledger()
    faults: Any = iter([fails_before("car")])
    simulation = simulate(Trip.run, activities=[ledger.book, ledger.cancel_booking], faults=faults)
    assert simulation.faults == [fails_before("car")]
    assert simulation.status == "failed"


def test_cancel_scope_ends_the_scope_and_not_the_workflow() -> None:
    simulation, entries = trip(cancel_scope(at=3))
    assert entries == ["flight", "car", "-car", "-flight"]
    assert simulation.status == "failed"
    assert not simulation.cancel_requested
    assert cause(simulation).type == "SimulatedTimeout"


def test_restart_at_every_activation_changes_nothing() -> None:
    plain, entries = trip()
    simulation, again = trip(*[restart(at=at) for at in range(1, 5)])
    assert again == entries
    assert simulation.commands == plain.commands
    assert simulation.replay_difference is None


_instances: list[int] = []


@workflow.defn
class Forgetful:
    """Does other things each time it is run."""

    @workflow.run
    async def run(self) -> None:
        _instances.append(1)
        await asyncio.sleep(len(_instances))
        await asyncio.sleep(1)


def test_restart_finds_a_replay_that_differs() -> None:
    _instances.clear()
    simulation = simulate(Forgetful.run, faults=[restart(at=2)])
    assert simulation.replay_difference is not None
    assert "gave [('start_timer', 1.0)], and replayed [('start_timer', 2.0)]" in simulation.replay_difference


_visitor: ContextVar[str] = ContextVar("visitor", default="nobody")


@workflow.defn
class Visits:
    """Notes what each of its activities finds in its context, and what the workflow itself finds."""

    @workflow.run
    async def run(self) -> list[tuple[bool, str]]:
        found = [(activity.in_activity(), _visitor.get())]
        async with Saga(activity_options=OPTIONS) as saga:
            for name in ("first", "second"):
                await saga.execute_activity("visit", name, step=name, compensation=Ledger.cancel_booking)
                found.append((activity.in_activity(), _visitor.get()))
        return found


@pytest.mark.parametrize(
    "faults",
    [
        [],
        *([restart(at=at)] for at in (1, 2, 3)),
        *([fault("first")] for fault in (bug_after, worker_lost, slow, delivered_twice, fails_once)),
        [bug_after("first"), restart(at=3)],
    ],
    ids=str,
)
def test_no_context_is_shared(faults: list[Fault]) -> None:
    """As on a worker: no workflow runs in an activity's context, and no activity in another's."""
    visits: list[str] = []

    @activity.defn
    async def visit(name: str) -> None:
        visits.append(_visitor.get())
        _visitor.set(name)
        await asyncio.sleep(1)

    outside = _visitor.set("the worker")
    try:
        simulation = simulate(Visits.run, activities=[visit, Ledger().cancel_booking], faults=faults)
    finally:
        _visitor.reset(outside)
    assert simulation.result() == [(False, "nobody")] * 3
    assert set(visits) == {"the worker"}
    assert simulation.replay_difference is None
    assert simulation.check_replay() is None


@workflow.defn
class Refuses:
    """Refuses in its own code, behind an activity."""

    @workflow.run
    async def run(self) -> None:
        async with Saga(activity_options=OPTIONS) as saga:
            await saga.execute_activity_method(Ledger.book, "flight", step="flight", compensation=Ledger.cancel_booking)
            raise Declined("full")


@pytest.mark.parametrize("fault", [bug_after("flight"), restart(at=2), worker_lost("flight")], ids=str)
def test_what_a_workflow_raises_is_the_same_in_a_replay(fault: Fault) -> None:
    """The mark of an error says what an activity proves; in a workflow there is no activity to prove anything."""
    ledger = Ledger()
    simulation = simulate(Refuses.run, activities=[ledger.book, ledger.cancel_booking], faults=[fault])
    assert simulation.status == "failed"
    assert simulation.replay_difference is None
    assert simulation.check_replay() is None


def test_signals_and_updates_come_where_they_are_put() -> None:
    simulation, _ = trip(signal("note", "early", at=1), update("noted", "later", at=3))
    assert simulation.result() == "done early later"
    assert [event.kind for event in simulation.trace if event.kind in ("signal", "update")] == ["signal", "update"]


def test_updates_of_one_name_do_not_meet() -> None:
    """Each update has its own answer: updates of one activation, and those of two handles of one workflow."""
    answers: list[int] = []

    async def client(handle: Any) -> None:
        another = handle.get_workflow_handle(handle.id)
        both = (handle.execute_update("noted", "c"), another.execute_update("noted", "d"))
        answers.extend(await asyncio.gather(*both))

    ledger = Ledger()
    faults = [update("noted", "a", at=2), update("noted", "b", at=2)]
    activities = [ledger.book, ledger.cancel_booking]
    simulation = simulate(Trip.run, activities=activities, client=client, faults=faults)
    assert sorted(simulation.result().split()) == ["a", "b", "c", "d", "done"]
    assert len(set(answers)) == 2
    assert [event.detail for event in simulation.trace if event.kind == "update_ended"] == ["completed"] * 4
    assert simulation.check_replay() is None


def test_a_client_that_a_fault_disappoints_is_no_error() -> None:
    async def client(handle: Any) -> None:
        await asyncio.sleep(60)
        await handle.signal(Trip.note, "too late")

    ledger = Ledger()
    activities: list[Any] = [ledger.book, ledger.cancel_booking]
    simulation = simulate(Trip.run, activities=activities, client=client, faults=[cancel(at=2)])
    assert "already completed" in str(simulation.client_error)


def test_a_plan_prints_as_it_is_written() -> None:
    plan = [fails_after("deposit"), slow("a:undo", nth=2), cancel(at=7), signal("note", "x", 1, at=2)]
    assert repr(plan) == "[fails_after('deposit'), slow('a:undo', nth=2), cancel(at=7), signal('note', 'x', 1, at=2)]"


# --- cost ---------------------------------------------------------------------------------------


def test_many_simulations_leave_nothing_behind() -> None:
    def once() -> None:
        ledger = Ledger()
        simulate(Trip.run, activities=[ledger.book, ledger.cancel_booking], faults=[cancel(at=3), restart(at=4)])

    for _ in range(20):
        once()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            once()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 200_000, f"{after - before} bytes after 50 runs"


def test_no_real_time_passes() -> None:
    began = time.monotonic()
    simulation, _ = trip(slow("flight"), slow("car"), worker_lost("hotel"))
    assert simulation.duration > timedelta(seconds=30)
    assert time.monotonic() - began < 10


# --- a worker that dies inside of a function -------------------------------------------------------------------------


class TwoEffects:
    """One activity of two effects, with a wait between them; a second attempt takes the first one for both."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.cleaned_up = False
        self.activities = [self.both]

    @activity.defn
    async def both(self) -> None:
        if self.done:
            return
        try:
            self.done.append("first")
            await asyncio.sleep(1)
            self.done.append("second")
        finally:
            self.cleaned_up = True


@workflow.defn
class DoesBoth:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(TwoEffects.both, start_to_close_timeout=timedelta(seconds=10))


def test_a_worker_dies_while_a_function_waits() -> None:
    """What was done before the wait stands, nothing behind it runs, and a timeout brings the next attempt."""
    world = TwoEffects()
    simulation = simulate(DoesBoth.run, activities=world.activities, faults=[worker_lost_inside("both")])
    assert (simulation.status, world.done, world.cleaned_up) == ("completed", ["first"], False)
    assert [(attempt.ran, attempt.outcome) for attempt in simulation.calls[0].attempts] == [
        (False, "StartToClose timeout"),
        (True, "completed"),
    ]


class Background:
    """One activity that leaves work to tasks and timers, as a decorator that sends heartbeats does."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.activities = [self.work]

    def note(self, what: str) -> None:
        self.done.append((what, activity.info().attempt))

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(1)
            activity.heartbeat()
            self.note("beat")

    async def charge_later(self) -> None:
        await asyncio.sleep(3)
        self.note("charge later")

    @activity.defn
    async def work(self) -> None:
        token = ATTEMPT.set(activity.info().attempt)
        beating, charging = asyncio.create_task(self.beat()), asyncio.create_task(self.charge_later())
        asyncio.get_running_loop().call_later(3, self.note, "called later")
        try:
            await charging
        finally:
            beating.cancel()
            ATTEMPT.reset(token)  # in any other context, an error


ATTEMPT: ContextVar[int] = ContextVar("attempt")


@workflow.defn
class WorksInBackground:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            Background.work, start_to_close_timeout=timedelta(seconds=60), heartbeat_timeout=timedelta(seconds=5)
        )


@pytest.mark.filterwarnings("error")
def test_what_a_function_has_started_dies_with_its_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its tasks and its timers. Nothing is said about them when they are forgotten."""
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    world = Background()
    simulation = simulate(WorksInBackground.run, activities=world.activities, faults=[worker_lost_inside("work")])
    assert [attempt.outcome for attempt in simulation.calls[0].attempts] == ["Heartbeat timeout", "completed"]
    assert world.done == [("beat", 2), ("beat", 2), ("called later", 2), ("charge later", 2)]
    del simulation
    gc.collect()
    assert not unraisable
    assert not caplog.records


class Beating:
    """One activity that sends a heartbeat by itself before it waits."""

    def __init__(self) -> None:
        self.told: list[list[Any]] = []
        self.activities = [self.work]

    @activity.defn
    async def work(self) -> None:
        self.told.append(list(activity.info().heartbeat_details))
        activity.heartbeat("begun")
        await asyncio.sleep(1)


@workflow.defn
class WaitsForBeats:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            Beating.work, start_to_close_timeout=timedelta(minutes=10), heartbeat_timeout=timedelta(seconds=5)
        )


def test_what_the_server_waits_for_outlives_a_worker() -> None:
    """The timeout that a heartbeat has begun is the server's: it comes though the function that beat has died."""
    world = Beating()
    simulation = simulate(WaitsForBeats.run, activities=world.activities, faults=[worker_lost_inside("work")])
    assert [(attempt.started, attempt.outcome) for attempt in simulation.calls[0].attempts] == [
        (timedelta(0), "Heartbeat timeout"),
        (timedelta(seconds=6), "completed"),
    ]
    assert world.told == [[], ["begun"]]


def test_a_function_that_never_waits_has_no_inside() -> None:
    world = TwoEffects()
    world.done.append("first")
    with pytest.raises(SimulationError, match="found nothing to strike"):
        simulate(DoesBoth.run, activities=world.activities, faults=[worker_lost_inside("both")])
