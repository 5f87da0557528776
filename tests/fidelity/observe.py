"""Runs a case in the simulator and on the real server, and puts down the same of both."""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.enums.v1 import EventType, IndexedValueType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from temporal_saga.testing import simulate
from tests.server.support import make_worker

from . import activities
from .cases import WORKERS, Case, WorkerOptions
from .describe import chain
from .workflows import WORKFLOWS

Command = tuple[Any, ...]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STATUS = {
    WorkflowExecutionStatus.COMPLETED: "completed",
    WorkflowExecutionStatus.FAILED: "failed",
    WorkflowExecutionStatus.CANCELED: "cancelled",
    WorkflowExecutionStatus.TERMINATED: "terminated",
    WorkflowExecutionStatus.TIMED_OUT: "timed out",
}


@dataclass
class Observation:
    """What can be seen of a run, the same here and there.

    Attributes:
        status: How the workflow ended.
        result: What it returned.
        error: Its error and the causes, as a client gets them.
        commands: Its commands, those of further runs included.
        attempts: The activities in the order of their scheduling: id, attempts that began, and how it ended. History
            does not tell the attempts of one that was cancelled between two, and of one that is open nothing: None.
        last_failures: Why the last attempt but one failed, of each activity; the same as None as for `attempts`.
        ran: Each call of a function: workflow, activity, attempt, heartbeat details of earlier attempts.
        times: When each of these began, after its activity was first scheduled.
        seen: What the client saw.
        children: How workflows ended that outlive it.
        task_failures: Why workflow tasks failed.
    """

    status: str = ""
    result: Any = None
    error: list[dict[str, Any]] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    attempts: list[Sequence[Any]] = field(default_factory=list)
    last_failures: list[str | None] = field(default_factory=list)
    ran: list[tuple[Any, ...]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    task_failures: list[str] = field(default_factory=list)

    def take_log(self, case: Case) -> None:
        ids = {case.id} | {ran.workflow_id for ran in activities.LOG if ran.workflow_id.startswith(f"{case.id}/")}
        log = sorted(
            (ran for ran in activities.LOG if ran.workflow_id in ids),
            key=lambda ran: (ran.workflow_id, ran.activity_id.split(":")[:-1], ran.activity_id, ran.attempt),
        )
        self.ran = [(ran.workflow_id, ran.activity_id, ran.attempt, ran.heartbeat_details) for ran in log]
        self.times = [ran.time for ran in log]

    def named(self) -> Observation:
        """The same, with each random id replaced by the place where it first comes."""
        names: dict[str, str] = {}

        def name(value: Any) -> Any:
            if isinstance(value, str):
                return _UUID.sub(lambda match: names.setdefault(match[0], f"uuid-{len(names) + 1}"), value)
            if isinstance(value, (list, tuple)):
                return [name(each) for each in value]
            if isinstance(value, dict):
                return {key: name(each) for key, each in value.items()}
            return value

        given = {key: name(getattr(self, key)) for key in ("commands", "result", "error", "ran", "attempts")}
        given |= {key: name(getattr(self, key)) for key in ("seen", "children", "task_failures", "last_failures")}
        return Observation(status=self.status, times=self.times, **given)


# --- here ---------------------------------------------------------------------------------------


def simulated(case: Case) -> Observation:
    """Run the case in the simulator."""
    worker = WORKERS[case.worker]
    seen: list[Any] = []
    activities.LOG[:] = [ran for ran in activities.LOG if not ran.workflow_id.startswith(case.id)]

    async def client(handle: Any) -> None:
        if case.client:
            await case.client(handle, seen)
        if case.children:
            await _end_of(handle)
            ends.extend(await _ends_of(case, handle.get_workflow_handle))

    ends: list[str] = []
    simulation = simulate(
        case.run,
        *case.args,
        id=case.id,
        task_queue=case.worker,
        activities=activities.ACTIVITIES,
        workflows=WORKFLOWS,
        client=client if case.client or case.children else None,
        plugins=worker.plugins,
        interceptors=worker.interceptors,
        data_converter=worker.data_converter,
        failure_exception_types=worker.failure_exception_types,
        sandboxed=worker.sandboxed,
        unserved_task_queues=["nobody"],
        **case.options,
    )
    found = Observation(status=simulation.status, seen=seen, children=ends)
    found.take_log(case)
    try:
        found.result = simulation.result()
    except WorkflowFailureError as error:
        found.error = chain(error)
    unsent, accepted = list(case.unsent), set()
    for command in simulation.commands:
        kind, id = [*command, ""][:2]
        if kind == "update_accepted":
            accepted.add(id)
        if command in unsent:
            unsent.remove(command)
        elif kind != "update_rejected" or id in accepted:  # what a validator refuses is not in history
            found.commands.append(_described(command))
    assert not unsent, f"not among the commands: {unsent}"
    main_runs = {run.start.run_id for run in simulation._main.runs}
    calls = [call for call in simulation.calls if call.kind == "activity" and call.run_id in main_runs]
    for call in calls:
        numbers = [attempt.number for attempt in call.attempts]
        found.attempts.append((call.activity_id, max(numbers, default=0), call.state))
        number = found.attempts[-1][1]
        before = [attempt.outcome for attempt in call.attempts if attempt.number == number - 1]
        found.last_failures.append(before[0] if before else "")
    found.task_failures = sorted(set(simulation.task_failures))
    difference = simulation.check_replay()
    assert difference is None, difference
    return found.named()


def _described(command: Command) -> Command:
    return tuple(chain(each) if isinstance(each, BaseException) else each for each in command)


async def _end_of(handle: Any) -> str:
    try:
        await handle.result()
    except WorkflowFailureError as error:
        return type(error.cause).__name__
    return "completed"


async def _ends_of(case: Case, find: Callable[[str], Any]) -> list[str]:
    ends: list[str] = []
    for child in case.children:
        try:
            ends.append(await _end_of(find(child)))
        except RPCError as error:
            ends.append(error.status.name)
    return ends


# --- there --------------------------------------------------------------------------------------


class Servers:
    """The real server in real time and on skipped time, with a worker for each of `WORKERS`."""

    def __init__(self, env: WorkflowEnvironment, time_skipping_env: WorkflowEnvironment) -> None:
        self._envs = {False: env, True: time_skipping_env}
        self._clients: dict[tuple[bool, str], Client] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Servers:
        await _add_search_attributes(self._envs[False].client)
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._stack.aclose()

    async def start_workers(self, cases: Sequence[Case]) -> None:
        for is_long, name in sorted({(case.is_long, case.worker) for case in cases}):
            options = WORKERS[name]
            client = self._clients[is_long, name] = _client(self._envs[is_long].client, options)
            await self._stack.enter_async_context(_worker(client, name, options))

    async def observe(self, case: Case) -> Observation:
        """Run the case on the server."""
        client = self._clients[case.is_long, case.worker]
        handle = await client.start_workflow(
            case.run,
            args=case.args,
            id=case.id,
            task_queue=case.worker,
            id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
            **case.options,
        )
        found = Observation()
        try:
            await asyncio.wait_for(self._follow(case, client, handle, found), 50)
        except asyncio.TimeoutError:
            history = await handle.fetch_history()
            events = [EventType.Name(event.event_type) for event in history.events]
            raise AssertionError(f"no end on the server: {events}") from None
        finally:
            await _terminate(handle)
        return found.named()

    async def _follow(self, case: Case, client: Client, handle: WorkflowHandle[Any, Any], found: Observation) -> None:
        if case.client:
            await case.client(client.get_workflow_handle_for(case.run, case.id), found.seen)
        try:
            found.result = await handle.result()
        except WorkflowFailureError as error:
            found.error = chain(error)
        found.children = await _ends_of(case, client.get_workflow_handle)
        status = (await client.get_workflow_handle(case.id).describe()).status
        assert status is not None
        found.status = _STATUS[status]
        run_id: str | None = handle.result_run_id
        reader = _Reader(client.data_converter, found)
        while run_id:
            history = await client.get_workflow_handle(case.id, run_id=run_id).fetch_history()
            run_id = await reader.read(history.events)
        found.take_log(case)


def _client(client: Client, options: WorkerOptions) -> Client:
    config = client.config()
    config["plugins"] = list(options.plugins)
    config["data_converter"] = options.data_converter
    return Client(**config)


def _worker(client: Client, name: str, options: WorkerOptions) -> Any:
    return make_worker(
        client,
        name,
        workflows=WORKFLOWS,
        activities=activities.ACTIVITIES,
        interceptors=options.interceptors,
        workflow_failure_exception_types=options.failure_exception_types,
        workflow_runner=SandboxedWorkflowRunner() if options.sandboxed else UnsandboxedWorkflowRunner(),
    )


async def _add_search_attributes(client: Client) -> None:
    names = {
        "FidelityKey": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
        "FidelityNumber": IndexedValueType.INDEXED_VALUE_TYPE_INT,
    }
    try:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=names)
        )
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise


async def _terminate(handle: WorkflowHandle[Any, Any]) -> None:
    try:
        await handle.terminate("the test is over")
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # it has ended
            raise


class _Reader:
    """Reads commands, attempts and task failures out of histories."""

    def __init__(self, converter: DataConverter, found: Observation) -> None:
        self._converter = converter
        self._found = found

    async def read(self, events: Sequence[HistoryEvent]) -> str | None:
        """Read one run; return the id of the next."""
        self._names: dict[int, Any] = {}
        self._attempts: dict[int, list[Any]] = {}
        next_run = None
        for event in events:
            field = str(event.WhichOneof("attributes"))
            attributes = getattr(event, field)
            kind = field.removesuffix("_event_attributes")
            command = await self._command(kind, attributes, event.event_id)
            if command is not None:
                self._found.commands.append(command)
            await self._note_attempt(kind, attributes, event.event_id)
            # Without a failure it was the server: the run was terminated in the middle of a task.
            if kind == "workflow_task_failed" and attributes.HasField("failure"):
                failure = attributes.failure
                message = f"{failure.application_failure_info.type}: {failure.message}"
                self._found.task_failures = sorted({*self._found.task_failures, message})
            next_run = getattr(attributes, "new_execution_run_id", "") or next_run
        for *attempt, failure in self._attempts.values():
            self._found.attempts.append(tuple(attempt))
            self._found.last_failures.append(failure)
        return next_run

    async def _note_attempt(self, kind: str, attributes: Any, event_id: int) -> None:
        if kind == "activity_task_scheduled":
            self._attempts[event_id] = [attributes.activity_id, None, None, None]
        elif kind == "activity_task_started":
            attempt = self._attempts[attributes.scheduled_event_id]
            attempt[1], attempt[3] = attributes.attempt, ""
            if attributes.HasField("last_failure"):
                attempt[3] = _outcome(await self._converter.decode_failure(attributes.last_failure))
        elif kind.startswith("activity_task_") and kind != "activity_task_cancel_requested":
            state = kind.removeprefix("activity_task_").replace("_", " ").replace("canceled", "cancelled")
            attempt = self._attempts[attributes.scheduled_event_id]
            attempt[2] = state
            if attempt[1] is None and state == "timed out":
                attempt[1] = 0 if attributes.failure.HasField("timeout_failure_info") else None

    async def _plain(self, payloads: Any) -> list[Any]:
        return await self._converter.decode(list(payloads.payloads))

    async def _command(self, kind: str, attributes: Any, event_id: int) -> Command | None:
        match_ = getattr(self, f"_on_{kind}", None)
        return None if match_ is None else await match_(attributes, event_id)

    async def _on_activity_task_scheduled(self, attributes: Any, event_id: int) -> Command:
        self._names[event_id] = attributes.activity_id
        args = await self._plain(attributes.input)
        return ("schedule_activity", attributes.activity_id, attributes.activity_type.name, args)

    async def _on_activity_task_cancel_requested(self, attributes: Any, event_id: int) -> Command:
        return ("request_cancel_activity", self._names[attributes.scheduled_event_id])

    async def _on_timer_started(self, attributes: Any, event_id: int) -> Command:
        delay = attributes.start_to_fire_timeout.ToTimedelta().total_seconds()
        self._names[event_id] = delay
        return ("start_timer", delay)

    async def _on_timer_canceled(self, attributes: Any, event_id: int) -> Command:
        return ("cancel_timer", self._names[attributes.started_event_id])

    async def _on_start_child_workflow_execution_initiated(self, attributes: Any, event_id: int) -> Command:
        args = await self._plain(attributes.input)
        return ("start_child", attributes.workflow_id, attributes.workflow_type.name, args)

    async def _on_request_cancel_external_workflow_execution_initiated(self, attributes: Any, event_id: int) -> Command:
        kind = "cancel_child" if attributes.child_workflow_only else "cancel_external"
        return (kind, attributes.workflow_execution.workflow_id)

    async def _on_signal_external_workflow_execution_initiated(self, attributes: Any, event_id: int) -> Command:
        args = await self._plain(attributes.input)
        return ("signal_external", attributes.workflow_execution.workflow_id, attributes.signal_name, args)

    async def _on_marker_recorded(self, attributes: Any, event_id: int) -> Command:
        assert attributes.marker_name == "core_patch"
        (details,) = await self._plain(attributes.details["patch-data"])
        return ("patch", details["id"])

    async def _on_upsert_workflow_search_attributes(self, attributes: Any, event_id: int) -> Command | None:
        names = sorted(attributes.search_attributes.indexed_fields)
        # With a patch core writes which versions there are.
        return None if names == ["TemporalChangeVersion"] else ("upsert_search_attributes", names)

    async def _on_workflow_properties_modified(self, attributes: Any, event_id: int) -> Command:
        return ("upsert_memo", sorted(attributes.upserted_memo.fields))

    async def _on_workflow_execution_update_accepted(self, attributes: Any, event_id: int) -> Command:
        return ("update_accepted", attributes.protocol_instance_id)

    async def _on_workflow_execution_update_completed(self, attributes: Any, event_id: int) -> Command:
        outcome = attributes.outcome
        if outcome.HasField("failure"):
            error = await self._converter.decode_failure(outcome.failure)
            return ("update_rejected", attributes.meta.update_id, chain(error))
        return ("update_completed", attributes.meta.update_id, (await self._plain(outcome.success))[0])

    async def _on_workflow_execution_completed(self, attributes: Any, event_id: int) -> Command:
        return ("complete", (await self._plain(attributes.result))[0])

    async def _on_workflow_execution_failed(self, attributes: Any, event_id: int) -> Command:
        return ("fail", chain(await self._converter.decode_failure(attributes.failure)))

    async def _on_workflow_execution_canceled(self, attributes: Any, event_id: int) -> Command:
        return ("cancel",)

    async def _on_workflow_execution_continued_as_new(self, attributes: Any, event_id: int) -> Command:
        return ("continue_as_new", await self._plain(attributes.input))


def _outcome(error: BaseException) -> str:
    """How an attempt ended, in the simulator's words."""
    if isinstance(error, ApplicationError):
        return ": ".join(filter(None, ["failed", error.type, error.message]))
    return str(error).removeprefix("activity ")


def failed(error: BaseException) -> str:
    """An error that a case ended with, for the report."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))
