"""One run of a workflow: its commands make things happen, which come back to it as jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from temporalio import common
from temporalio.api.common.v1 import Payload, SearchAttributes
from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_commands import WorkflowCommand

from ._activities import Activities
from ._cached import CachedRun
from ._children import Children
from ._clock import Handle
from ._errors import UnsupportedError
from ._externals import Externals
from ._jobs import Job
from ._messages import Messages
from ._parked import ParkedCalls
from ._retries import seconds
from ._run_state import RunState, Status
from ._sagas import is_in_open_scope, is_undone_on_demand, reports_of
from ._sdk import RunStart
from ._tasks import WorkflowTasks
from ._timers import Timers
from ._workflows import Workflows
from ._world import World

_UNSUPPORTED = {
    "schedule_local_activity": "a local activity",
    "request_cancel_local_activity": "a local activity",
    "schedule_nexus_operation": "a Nexus operation",
    "request_cancel_nexus_operation": "a Nexus operation",
}


class Chain(Protocol):
    """The runs of one workflow id, as one of them sees it."""

    def next_attempt(self, failure: Failure) -> tuple[RunStart, float] | None:
        """Return the start of the retrying run and its delay in seconds; None if the workflow is not retried."""
        ...

    def continue_with(self, start: RunStart, delay: float = 0.0) -> None:
        """Begin the next run."""
        ...

    def closed(self) -> None:
        """The last of the runs has ended."""
        ...


class Run:
    """One run of a workflow."""

    def __init__(self, world: World, start: RunStart, chain: Chain, workflows: Workflows, *, is_main: bool) -> None:
        state = RunState(world, start, is_main=is_main, on_job=lambda: self.tasks.wake())
        self.state: RunState = state
        self.start = start
        self.cached: CachedRun = CachedRun(world.parts, start)
        self.messages: Messages = Messages(state)
        self.tasks: WorkflowTasks = WorkflowTasks(state, self.cached, self.messages, take=self._take, on_end=self._look)
        self.result: Payload | None = None
        self.failure: Failure | None = None
        self.close_details: str = ""
        self._world = world
        self._chain = chain
        self.parked: ParkedCalls = ParkedCalls(
            state,
            self.messages,
            reports=lambda: reports_of(self.cached.instance, world.parts.converter),
            do_by_hand=lambda call: self._activities.do_by_hand(call),
        )
        self._activities = Activities(
            state,
            is_in_scope=lambda: is_in_open_scope(self.cached.instance),
            is_undone_on_demand=lambda key: is_undone_on_demand(self.cached.instance, world.parts.converter, key),
            is_reminder=self.parked.is_reminder,
            is_last_reminder=self.parked.is_last_reminder,
        )
        self._timers = Timers(state)
        self._children = Children(state, workflows)
        self._externals = Externals(state, workflows)
        self.closed_at: float | None = None
        self.memo: dict[str, Payload] = dict(start.memo)
        self.search_attributes: SearchAttributes = SearchAttributes()
        self.search_attributes.CopyFrom(start.search_attributes)
        self._timeout: Handle | None = None
        self._take_command: dict[str, Callable[[Any], None]] = {
            "schedule_activity": self._activities.schedule,
            "request_cancel_activity": self._activities.request_cancel,
            "start_timer": self._timers.start,
            "cancel_timer": self._timers.cancel,
            "complete_workflow_execution": self._complete,
            "fail_workflow_execution": self._fail,
            "cancel_workflow_execution": self._cancel,
            "continue_as_new_workflow_execution": self._continue_as_new,
            "start_child_workflow_execution": self._children.start,
            "cancel_child_workflow_execution": self._children.cancel,
            "signal_external_workflow_execution": self._externals.signal,
            "request_cancel_external_workflow_execution": self._externals.cancel,
            "cancel_signal_workflow": self._nothing,
            "upsert_workflow_search_attributes": self._upsert_search_attributes,
            "modify_workflow_properties": self._modify_properties,
            "set_patch_marker": self._patch,
            "update_response": self.messages.answer,
        }

    # --- its begin ---

    def begin(self) -> None:
        """Make the first workflow task."""
        if not self.state.is_open:
            return
        start = self.start
        if start.run_timeout:
            self._timeout = self._world.loop.later(start.run_timeout.total_seconds(), self._time_out)
        self.state.record("started", start.workflow_type, "" if start.attempt == 1 else f"attempt {start.attempt}")
        self.tasks.begin(Job(start.job(), events=0))

    # --- commands ---

    def _take(self, command: WorkflowCommand) -> None:
        kind = command.WhichOneof("variant") or ""
        take = self._take_command.get(kind)
        if take is None:
            what = _UNSUPPORTED.get(kind, f"the command {kind!r}")
            self._world.fail(UnsupportedError(f"{what} cannot be simulated: run it on a real server"))
        take(getattr(command, kind))

    def _upsert_search_attributes(self, command: Any) -> None:
        self.state.events += 1
        for key, payload in command.search_attributes.indexed_fields.items():
            self.search_attributes.indexed_fields[key].CopyFrom(payload)

    def _modify_properties(self, command: Any) -> None:
        self.state.events += 1
        for key, payload in command.upserted_memo.fields.items():
            if payload.metadata.get("encoding") == b"binary/null":
                self.memo.pop(key, None)
            else:
                self.memo[key] = payload

    def _patch(self, _command: Any) -> None:
        self.state.events += 1

    def _nothing(self, _command: Any) -> None:
        """Nothing to do: the signal has been sent."""

    # --- the end ---

    def _complete(self, command: Any) -> None:
        self.result = command.result
        self._close("completed")

    def _fail(self, command: Any) -> None:
        self.failure = command.failure
        self._end_badly("failed", command.failure)

    def _cancel(self, _command: Any) -> None:
        self._close("cancelled")

    def _time_out(self) -> None:
        if not self.state.is_open:
            return
        failure = Failure(message="workflow timeout")
        failure.timeout_failure_info.timeout_type = TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE
        self._end_badly("timed out", failure)

    def terminate(self, reason: str) -> None:
        """End the run at once: none of its code runs any more."""
        if self.state.is_open:
            self.close_details = reason
            self._close("terminated")

    def expire(self) -> None:
        """The execution timeout has passed."""
        if self.state.is_open:
            self._close("timed out")

    def _end_badly(self, status: Status, failure: Failure) -> None:
        again = self._chain.next_attempt(failure)
        if again is None:
            self._close(status)
        else:
            self._continue(status, *again)

    def _continue_as_new(self, command: Any) -> None:
        start = self.start
        policy = command.retry_policy if command.HasField("retry_policy") else None
        again = start.but(
            definition=self._world.definition(command.workflow_type or start.workflow_type),
            workflow_type=command.workflow_type or start.workflow_type,
            args=list(command.arguments),
            attempt=1,
            task_queue=command.task_queue or start.task_queue,
            run_timeout=command.workflow_run_timeout.ToTimedelta() or start.run_timeout,
            task_timeout=command.workflow_task_timeout.ToTimedelta() or start.task_timeout,
            memo=dict(command.memo) or start.memo,  # as on the server: what was upserted since is lost
            search_attributes=command.search_attributes
            if command.HasField("search_attributes")
            else self.search_attributes,
            headers=dict(command.headers),
            retry_policy=common.RetryPolicy.from_proto(policy) if policy else start.retry_policy,
            last_failure=None,
        )
        self._continue("continued as new", again, seconds(command.backoff_start_interval))

    def _continue(self, status: Status, again: RunStart, delay: float) -> None:
        self.state.record("continued", again.workflow_type, status)
        self._close(status, final=False)
        self._chain.continue_with(again, delay)

    def _close(self, status: Status, *, final: bool = True) -> None:
        state = self.state
        state.close(status)
        state.events += 1
        self.closed_at = self._world.time()
        if self._timeout:
            self._timeout.cancel()
        if final:
            state.record("closed", self.start.workflow_type, status)
        self._activities.close()
        self._timers.close()
        state.inbox.close()
        self.messages.close()
        self._children.close()
        if final:
            self._world.loop.soon(self._chain.closed)

    # --- looking ---

    def _look(self) -> None:
        self.parked.look(self.memo)

    @property
    def waits_for(self) -> str:
        """What an open run waits for, for people."""
        if self.tasks.failure:
            return f"its workflow task, which fails forever: {self.tasks.failure}"
        if parked := self.parked.labels:
            return f"a person, who decides about what is parked: {', '.join(parked)}"
        things = [*self._activities.waits_for, *self._children.waits_for, *self._timers.waits_for]
        return " and ".join(things or ["a condition, or a signal or update that never comes"])
