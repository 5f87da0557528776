"""Runs of workflows on the real server, each of them replayed when its test ends."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.exceptions import FailureError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, Worker, WorkflowReplayResult
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from temporal_saga.plugin import SagaPlugin

from .world import ACTIVITIES, BOOKS, Book

_NAMES = {number: name.removeprefix("EVENT_TYPE_") for name, number in EventType.items()}


async def eventually(check: Callable[[], Any], what: str = "", seconds: float = 20) -> Any:
    """Wait until `check` gives something true, and return that."""

    async def poll() -> Any:
        while True:
            found = check()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)

    try:
        return await asyncio.wait_for(poll(), seconds)
    except asyncio.TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what or check}") from None


class History:
    """The events of one run."""

    def __init__(self, history: WorkflowHistory) -> None:
        self.history = history
        self.events: Sequence[HistoryEvent] = history.events

    @property
    def types(self) -> list[str]:
        """The types of the events."""
        return [_NAMES[event.event_type] for event in self.events]

    @property
    def ids(self) -> list[str]:
        """The ids of the activities, in the order in which they were scheduled."""
        return [
            event.activity_task_scheduled_event_attributes.activity_id for event in self.of("ACTIVITY_TASK_SCHEDULED")
        ]

    @property
    def steps(self) -> list[str]:
        """The same as `name:phase`."""
        return [id.rpartition(":")[0] for id in self.ids]

    @property
    def undone(self) -> list[str]:
        """The names of the steps whose compensation was scheduled, in that order."""
        return [name for name, _, phase in (s.rpartition(":") for s in self.steps) if phase != "do"]

    def of(self, *types: str) -> list[HistoryEvent]:
        """The events of these types."""
        return [event for event in self.events if _NAMES[event.event_type] in types]

    def until(self, event_id: int) -> History:
        """The history up to an event."""
        return History(WorkflowHistory(self.history.workflow_id, self.events[:event_id]))


class Run:
    """One workflow, from its start to its end."""

    def __init__(self, handle: WorkflowHandle[Any, Any]) -> None:
        self.handle = handle

    @property
    def book(self) -> Book:
        """What its activities did."""
        return BOOKS[self.handle.id]

    def open(self, *gates: str) -> None:
        """Let activities that wait go on: `name:phase`."""
        self.book.opened.update(gates)

    async def reached(self, *gates: str) -> None:
        """Wait until these activities have begun."""
        await eventually(lambda: set(gates) <= set(self.book.began), f"{gates} began")

    async def history(self) -> History:
        """Its history so far."""
        return History(await self.handle.fetch_history())

    async def event(self, type: str, count: int = 1) -> list[HistoryEvent]:
        """Wait for so many events of a type."""

        async def found() -> list[HistoryEvent]:
            events = (await self.history()).of(type)
            return events if len(events) >= count else []

        events: list[HistoryEvent] = await eventually(found, f"{count} {type}")
        return events

    async def task_failure(self) -> str:
        """Wait until a workflow task fails, and return its message."""
        (event, *_) = await self.event("WORKFLOW_TASK_FAILED")
        return event.workflow_task_failed_event_attributes.failure.message

    async def failure(self) -> BaseException:
        """Wait until it fails, and return why."""
        try:
            result = await asyncio.wait_for(self.handle.result(), 30)
        except WorkflowFailureError as error:
            return error.cause
        raise AssertionError(f"it returned {result!r}")

    async def status(self) -> WorkflowExecutionStatus | None:
        """How it stands."""
        return (await self.handle.describe()).status

    async def report(self) -> Any:
        """What the query `saga_report` answers."""
        return await self.handle.query("saga_report")


class Runs:
    """Starts workflows for one test, and replays each history that came of it."""

    def __init__(self, client: Client, queue: str, workflows: Sequence[type], replays: Replays) -> None:
        self._replays = replays
        self.client = client
        self.queue = queue
        self.workflows = workflows
        self._started: list[WorkflowHandle[Any, Any]] = []

    async def start(
        self,
        workflow: Callable[..., Awaitable[Any]],
        *args: Any,
        queue: str | None = None,
        client: Client | None = None,
        **options: Any,
    ) -> Run:
        """Start a workflow, on the shared worker unless another queue is given."""
        handle = await (client or self.client).start_workflow(
            workflow,
            args=args,
            id=options.pop("id", f"w-{uuid4()}"),
            task_queue=queue or self.queue,
            task_timeout=timedelta(seconds=5),
            **options,
        )
        return self.track(handle)

    def track(self, handle: WorkflowHandle[Any, Any]) -> Run:
        """Replay this one's history, too."""
        self._started.append(handle)
        return Run(handle)

    def child(self, id: str, run_id: str | None = None) -> Run:
        """A child, by its id; or a certain run."""
        return Run(self.client.get_workflow_handle(id, run_id=run_id))

    async def reset(self, run: Run, event_id: int) -> Run:
        """Reset a run to the end of the workflow task that this event completed."""
        answer = await self.client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=self.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=run.handle.id, run_id=run.handle.result_run_id or ""),
                reason="test",
                workflow_task_finish_event_id=event_id,
                request_id=str(uuid4()),
            )
        )
        return self.track(
            self.client.get_workflow_handle(run.handle.id, run_id=answer.run_id, first_execution_run_id=None)
        )

    @asynccontextmanager
    async def worker(
        self, queue: str | None = None, client: Client | None = None, **options: Any
    ) -> AsyncIterator[str]:
        """Run a worker of the test's own, on a queue of its own."""
        queue = queue or f"q-{uuid4()}"
        options = {
            "workflows": self.workflows,
            "activities": ACTIVITIES,
            "workflow_runner": passing(self.workflows),
            **options,
        }
        async with make_worker(client or self.client, queue, **options):
            yield queue

    async def histories(self) -> list[History]:
        """The histories of all that was started: children and continued runs included."""
        found: dict[tuple[str, str], History] = {}
        todo = [(handle.id, handle.result_run_id or handle.run_id or "") for handle in self._started]
        while todo:
            execution = todo.pop(0)
            if execution in found:
                continue
            handle = self.client.get_workflow_handle(execution[0], run_id=execution[1] or None)
            history = found[execution] = History(await handle.fetch_history())
            for event in history.of("CHILD_WORKFLOW_EXECUTION_STARTED"):
                child = event.child_workflow_execution_started_event_attributes.workflow_execution
                todo.append((child.workflow_id, child.run_id))
            for event in history.of("WORKFLOW_EXECUTION_CONTINUED_AS_NEW"):
                attributes = event.workflow_execution_continued_as_new_event_attributes
                todo.append((execution[0], attributes.new_execution_run_id))
        return list(found.values())

    async def close(self) -> None:
        """End what is open, then replay everything."""
        histories = await self.histories()
        for history in histories:
            if not _is_closed(history):
                await _terminate(self.client, history.history.workflow_id)
        for history in histories:
            await self._replays.replay(history)


def make_worker(client: Client, queue: str, **options: Any) -> Worker:
    """A worker on which a cancel is quick to reach an activity, and whose loss is soon noticed."""
    defaults: dict[str, Any] = {
        "activity_executor": ThreadPoolExecutor(4),
        "sticky_queue_schedule_to_start_timeout": timedelta(milliseconds=500),
        "max_heartbeat_throttle_interval": timedelta(milliseconds=50),
        "default_heartbeat_throttle_interval": timedelta(milliseconds=50),
    }
    return Worker(client, task_queue=queue, **{**defaults, **options})


def passing(workflows: Sequence[type]) -> SandboxedWorkflowRunner:
    """A sandbox that passes the modules of these workflows through.

    Else a worker imports them anew at its start for each of its workflows, and for each run that it has not cached,
    which takes longer than all else in a workflow task.
    """
    modules = {workflow.__module__ for workflow in workflows}
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*modules))


class Replays:
    """Replays histories, each from its beginning, in the sandbox of a worker that knows nothing.

    One `Replayer` for all of them: to start and stop one takes seconds.
    """

    def __init__(self, workflows: Sequence[type], **options: Any) -> None:
        self._replayer = Replayer(workflows=workflows, **{"plugins": [SagaPlugin()], **options})
        self._todo: asyncio.Queue[History] = asyncio.Queue()
        self._results: AsyncIterator[WorkflowReplayResult]

    async def __aenter__(self) -> Replays:
        self._iterator = self._replayer.workflow_replay_iterator(self._take())
        self._results = await self._iterator.__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._iterator.__aexit__(*exc_info)

    async def _take(self) -> AsyncIterator[WorkflowHistory]:
        while True:
            yield (await self._todo.get()).history

    async def replay(self, history: History) -> None:
        """Replay one; raise what it fails with."""
        await self._todo.put(history)
        result = await asyncio.wait_for(self._results.__anext__(), 30)
        if result.replay_failure is not None:
            raise result.replay_failure


def _is_closed(history: History) -> bool:
    return history.types[-1].startswith("WORKFLOW_EXECUTION_") and history.types[-1] not in (
        "WORKFLOW_EXECUTION_STARTED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "WORKFLOW_EXECUTION_CANCEL_REQUESTED",
    )


async def _terminate(client: Client, id: str) -> None:
    try:
        await client.get_workflow_handle(id).terminate("the test is over")
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # it has ended meanwhile
            raise


def kind(error: BaseException | None) -> str:
    """The class of an error, and its type if it has one: `ApplicationError Boom`."""
    type_ = getattr(error, "type", None)
    suffix = f" {type_}" if isinstance(type_, str) else ""
    return f"{type(error).__name__}{suffix}"


def causes(error: BaseException | None) -> list[str]:
    """The kinds of an error and of its causes."""
    chain = []
    while error is not None:
        chain.append(kind(error))
        error = error.cause if isinstance(error, FailureError) else error.__cause__
    return chain
