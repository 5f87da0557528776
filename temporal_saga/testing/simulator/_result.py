"""What happened in a simulation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.activity_result import ActivityResolution
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.exceptions import ApplicationError

from temporal_saga import SagaReport

from ._around import around_replays
from ._converter import Converter
from ._elsewhere import History, histories_of_runs
from ._errors import SimulationError
from ._faults import Fault
from ._history import Command, readable, varying_values
from ._outcome import outcome_of
from ._pending import PendingFaults
from ._run import Run
from ._sagas import keys_undone_with_own_input, reports_of
from ._server import Execution, Server
from ._timeline import timeline
from ._trace import Call, TraceEvent, step_of

End = Literal["completed", "failed", "cancelled", "terminated", "timed out"]
Status = Literal[End, "waiting"]

R = TypeVar("R")


class Simulation(Generic[R]):
    """What happened in a simulated run of a workflow, its further runs and its children included.

    Attributes:
        status: How the workflow ended; `"waiting"` if it never does.
        waiting_for: What it waits for, for people; empty if it ended.
        trace: All that happened, in order.
        calls: The calls of activities, and of the children that sagas started, in order.
        run_ids: The ids of the workflow's runs, without those of its children.
        activations: How many activations the workflow had, its further runs included.
        duration: How long it took, on the virtual clock.
        parked: What waits for a person at the end, by the labels of its calls: the run goes on once it is decided.
        task_failures: Why workflow tasks failed: a bug, or a replay that differs.
        replay_difference: Where a replay after `restart` gave other commands; None if nowhere. See `check_replay`.
        client_error: What the client's function raised because of a fault.
        cancel_requested: Whether anyone asked for the workflow's cancellation.
        faults: The faults as they were given.
    """

    def __init__(self, server: Server, main: Execution, faults: PendingFaults, result_type: type | None) -> None:
        world, journal = server.world, server.world.journal
        self._server = server
        self._parts = world.parts
        self._main = main
        self._result_type = result_type
        self.status: Status = cast("Status", "waiting" if main.is_open else main.status)
        self.waiting_for: str = main.run.waits_for if main.is_open else ""
        self.trace: list[TraceEvent] = journal.trace
        self.calls: list[Call] = journal.calls
        self.run_ids: list[str] = [run.start.run_id for run in main.runs]
        self.activations: int = journal.activation
        self.duration: timedelta = world.loop.elapsed
        self._ended_at = world.date(world.time())
        self._reports: list[SagaReport] | None = None
        if not all(run.cached.instance.is_at_rest for execution in server.executions for run in execution.runs):
            self._reports = self._make_reports()  # before the eviction, which may change them
        self.parked: list[str] = [
            label
            for execution in server.executions
            if not (main.is_open and main.run.tasks.failure)
            for label in execution.run.parked.labels
        ]
        self.task_failures: list[str] = journal.task_failures
        self.faults: list[Fault] = faults.faults
        self.cancel_requested: bool = any(run.messages.cancel_requested for run in main.runs)
        self.replay_difference: str | None = journal.differences[0] if journal.differences else None
        self.client_error: BaseException | None = None
        self._in_world: list[Simulation[R]] = []
        self._commands: list[Command] | None = None

    @property
    def reports(self) -> list[SagaReport]:
        """The report of each saga, those of further runs and of children included."""
        if self._reports is None:
            self._reports = self._make_reports()
        return self._reports

    def _make_reports(self) -> list[SagaReport]:
        return [
            report
            for execution in self._server.executions
            for run in execution.runs
            if run.cached.activations
            for report in reports_of(run.cached.instance, self._parts.converter)
        ]

    def __del__(self) -> None:
        self._server.world.loop.forget()

    @property
    def runs(self) -> list[Simulation[R]]:
        """The simulations of one world, in order, this one among them: several with `explore(..., runs=2)`."""
        return self._in_world or [self]

    def result(self) -> R:
        """Return what the workflow returned, in its last run.

        Raises:
            WorkflowFailureError: If it failed, was cancelled, was terminated or timed out; see its `cause`.
            SimulationError: If it never ends.
        """
        if self.status == "waiting":
            raise SimulationError(f"the workflow never ends: it waits for {self.waiting_for}")
        return cast(R, outcome_of(self._main.run, self._parts.converter, self._result_type))

    @property
    def commands(self) -> list[Command]:
        """The commands of the workflow: `("schedule_activity", id, type, args)`, `("complete", result)`, and so on."""
        if self._commands is None:
            self._commands = [
                command
                for run in self._main.runs
                for commands in readable(run.cached.activations, self._parts.converter)
                for command in commands
            ]
        return self._commands

    def check_replay(self, *, varying: Collection[str] = ()) -> str | None:
        """Replay the histories of all runs on fresh instances; return where their commands differ, or None.

        Args:
            varying: The calls whose arguments do not count, as `varying` returns them: they differ in each run.
        """
        with around_replays(self._parts):
            for execution in self._server.executions:
                for run in execution.runs:
                    difference = run.cached.check_replay(varying)
                    if difference is not None:
                        return difference
        return None

    def __repr__(self) -> str:
        return f"<Simulation of {self._main.runs[0].start.workflow_type}: {self.status}>"

    def __str__(self) -> str:
        if len(self.runs) == 1:
            return self._timeline()
        return "\n\n".join(f"run {number}:\n{run._timeline()}" for number, run in enumerate(self.runs, 1))

    def _timeline(self) -> str:
        ending = ""
        if self.status == "waiting":
            ending = f"never ends: {self.waiting_for}"
        elif self.status == "failed":
            ending = f"failed with {why(self)}"
        return timeline(self.trace, self.calls, ending)


def ended_at(simulation: Simulation[Any]) -> datetime:
    """Return when nothing was left to happen, on the workflow's clock."""
    ended: datetime = cast(Any, simulation)._ended_at
    return ended


def add_to_world(runs: list[Simulation[R]], simulation: Simulation[R]) -> None:
    """Add a simulation to those that one world has seen."""
    runs.append(simulation)
    cast(Any, simulation)._in_world = runs


def inputs_of(simulation: Simulation[Any]) -> tuple[bytes, ...]:
    """Return what each activation told the workflow: results, failures, signals, cancels, without the time."""

    def told(request: WorkflowActivation) -> bytes:
        timeless = WorkflowActivation()
        timeless.CopyFrom(request)
        timeless.ClearField("timestamp")
        return timeless.SerializeToString(deterministic=True)

    runs: list[Run] = cast(Any, simulation)._main.runs  # of this module's own class: users need no such method
    return tuple(told(done.request) for run in runs for done in run.cached.activations)


def varying(one: Simulation[Any], other: Simulation[Any]) -> frozenset[str]:
    """Return the calls whose arguments differ between two simulations that ought to be alike, by their labels."""
    pairs = zip(_runs_of(one), _runs_of(other), strict=False)
    return frozenset(
        name for run, again in pairs for name in varying_values(run.cached.activations, again.cached.activations)
    )


def _runs_of(simulation: Simulation[Any]) -> list[Run]:
    server: Server = cast(Any, simulation)._server  # of this module's own class: users need no such method
    return [run for execution in server.executions for run in execution.runs]


def changed_inputs(simulation: Simulation[Any]) -> list[tuple[str, list[Any], list[Any]]]:
    """Return each undo that gets what its step got, and got something else: its label, the step's input, its own."""
    parts = cast(Any, simulation)._parts
    given: dict[str, Sequence[Payload]] = {}
    found: list[tuple[str, list[Any], list[Any]]] = []
    for run in _runs_of(simulation):
        own = keys_undone_with_own_input(run.cached.instance) if run.cached.activations else set[str]()
        for activation in run.cached.activations if own else ():
            for command in activation.completion.successful.commands:
                call = command.schedule_activity
                step = step_of(call.activity_id) if command.HasField("schedule_activity") else None
                if step is None or step.forward_key not in own:
                    continue
                if step.phase == "do":
                    given[step.key] = call.arguments
                elif list(given.get(step.forward_key, call.arguments)) != list(call.arguments):
                    converter: Converter = parts.converter
                    before, now = converter.plain(given[step.forward_key]), converter.plain(call.arguments)
                    if before != now:  # a converter may write one value in more than one way
                        found.append((step.label, before, now))
    return found


def histories_of(simulation: Simulation[Any]) -> list[History]:
    """Return the histories of all runs, to be replayed in another process."""
    return histories_of_runs(_runs_of(simulation))


def why(simulation: Simulation[Any]) -> str:
    """Return the error of a run and its causes, in one line."""
    try:
        simulation.result()
    except Exception as error:
        chain: list[str] = []
        cause: BaseException | None = error.__cause__ or getattr(error, "cause", None)
        while cause is not None:
            name = getattr(cause, "type", None) if isinstance(cause, ApplicationError) else None
            message = getattr(cause, "message", None) or str(cause)
            chain.append(f"{name or type(cause).__name__}: {message}")
            cause = cause.__cause__
        return ", because of ".join(chain)
    return "no error"


class Told(NamedTuple):
    """What a workflow was told, by what it was about; without times.

    Attributes:
        ends: How each activity ended, by its activity id: its result, or the types of its errors.
        events: Of each activation, in order: the signals, updates and cancels that came in it or in front of it.
        error_types: The types of the errors that it failed with.
    """

    ends: dict[str, object]
    events: tuple[tuple[bytes, ...], ...]
    error_types: tuple[str, ...]


_FROM_OUTSIDE = ("signal_workflow", "do_update", "cancel_workflow")


def told_of(simulation: Simulation[Any]) -> Told:
    """Return what a workflow was told."""
    runs: list[Run] = cast(Any, simulation)._main.runs
    ends: dict[str, object] = {}
    events: list[tuple[bytes, ...]] = []
    for run in runs:
        ids: dict[int, str] = {}
        for done in run.cached.activations:
            for job in done.request.jobs:
                if job.HasField("resolve_activity"):
                    ends[ids.get(job.resolve_activity.seq, "")] = _end_in_short(job.resolve_activity.result)
            outside = (job for job in done.request.jobs if job.WhichOneof("variant") in _FROM_OUTSIDE)
            events.append(tuple(job.SerializeToString(deterministic=True) for job in outside))
            for command in done.completion.successful.commands:
                if command.HasField("schedule_activity"):
                    ids[command.schedule_activity.seq] = command.schedule_activity.activity_id
    failure = runs[-1].failure
    return Told(ends, tuple(events), () if failure is None else tuple(_types(failure)))


def _end_in_short(result: ActivityResolution) -> object:
    if result.HasField("completed"):
        return result.completed.result.SerializeToString(deterministic=True)
    return tuple(_types(result.failed.failure if result.HasField("failed") else result.cancelled.failure))


def _types(failure: Failure) -> Iterator[str]:
    while True:
        yield failure.application_failure_info.type or failure.WhichOneof("failure_info") or ""
        if not failure.HasField("cause"):
            return
        failure = failure.cause
