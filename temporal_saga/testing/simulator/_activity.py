"""One activity, as the server knows it: timeouts, retries, cancellation.

The rules were read in the server's source, version 1.31 (`timer_queue_active_task_executor`, `mutable_state_impl`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, NamedTuple

from temporalio import activity
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import WorkflowActivationJob
from temporalio.bridge.proto.workflow_commands import ScheduleActivity
from temporalio.converter import DefaultPayloadConverter

from ._attempt import NOT_DECODED, AttemptRun
from ._clock import Handle
from ._errors import SimulationError
from ._pending import CallFaults
from ._retries import TIMEOUT_NAMES, effective, reason, retry_delay, timeout_failure, timeout_in
from ._run_state import RunState
from ._sdk import Once, activity_info, priority_of
from ._trace import Call, CallState
from ._world import World

# An activity without a schedule-to-close timeout that has failed this often counts as one that fails forever.
MAX_ATTEMPTS = 1_000
# So has one that has failed this often in the same way, by a bug.
MAX_ATTEMPTS_OF_BUG = 10
_BUGS = frozenset(
    {"TypeError", "AttributeError", "NameError", "UnboundLocalError", "ImportError", "NotImplementedError"}
)
_TIMEOUTS = {
    "to start": TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START,
    "to close": TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE,
    "total": TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE,
    "heartbeat": TimeoutType.TIMEOUT_TYPE_HEARTBEAT,
}
# What the server says of an activity that it cancels while no worker has it in hand.
_NOT_STARTED = DefaultPayloadConverter().to_payloads_wrapper(["ACTIVITY_ID_NOT_STARTED"])


class ActivityEnd(NamedTuple):
    """How an activity ended on the server."""

    state: CallState
    proto: WorkflowActivationJob
    """The job that tells the workflow."""
    events: int
    """How many events of history record the end."""
    is_bug: bool = False
    """Whether the workflow's `await` is to raise a bug first."""


class ActivityTask:
    """An activity that a run has scheduled."""

    def __init__(
        self, run: RunState, command: ScheduleActivity, on_end: Callable[[ActivityTask, ActivityEnd], None]
    ) -> None:
        world = run.world
        self.command = command
        self.seq: int = command.seq
        self.activity_id: str = command.activity_id
        self.call: Call = world.journal.new_call(
            "activity", command.activity_type, self.activity_id, run.start.run_id, run.start.workflow_id
        )
        self.faults: CallFaults = world.faults.of_call(self.call)
        self.task: int = run.task
        self.cancel_requested: bool = False
        self.sent: bool = True
        self._run = run
        self._world = world
        self._on_end = on_end
        self._scheduled_event = run.events
        self._closed = False
        self._attempt = 1
        self._running: AttemptRun | None = None
        self._last: AttemptRun | None = None
        self._heartbeat: Sequence[Payload] = ()
        self._alike, self._alike_reason = 0, ""
        self._gave_up = False
        self._last_failure: Failure | None = None
        self._timers = _Timers(world)
        self._first_scheduled = self._scheduled = world.time()
        definition = world.parts.activity(self.call.type)
        self._is_served = command.task_queue not in world.unserved
        if definition is None and self._is_served:
            world.fail(
                SimulationError(
                    f"activity {command.activity_type!r} is not registered; registered: "
                    f"{', '.join(sorted(map(str, world.parts.activities))) or 'none'}. "
                    "Give it with activities=[...]; explore takes it from the world that setup returns "
                    "(a real worker would fail each attempt, and the server would retry forever)"
                )
            )
        self.definition: Any = definition
        self.total, self._to_start, self.to_close, self.heartbeat_timeout = _effective_timeouts(
            timeout_in(command, "schedule_to_close_timeout"),
            timeout_in(command, "schedule_to_start_timeout"),
            timeout_in(command, "start_to_close_timeout"),
            timeout_in(command, "heartbeat_timeout"),
            run.longest,
        )

    @property
    def waits_for(self) -> str:
        """What this waits for, for people."""
        where = "" if self._is_served else f", on task queue {self.command.task_queue!r}, which nothing serves"
        if self._last_failure is not None and self._gave_up:
            where = f", and it fails forever: {self._last_failure.message}"
        return f"activity {self.call.label!r} (attempt {self._attempt}{where})"

    # --- the server's side ---

    def schedule(self) -> None:
        """Put the activity on its task queue."""
        # Equal timeouts: the one set first comes first, as on the server.
        if self._to_start:
            self._set_timer("to start", self._to_start)
        if self.total:
            self._set_timer("total", self.total)
        if self._is_served:
            self._world.loop.soon(self._dispatch)

    def run_by_hand(self) -> None:
        """A person does what the activity has not done."""
        if self._last is not None:
            self._last.run_again("by_hand")

    def request_cancel(self) -> None:
        """Take note of the workflow's wish; what no worker has in hand ends at once."""
        self.cancel_requested = True
        self._record("cancel_requested")
        if self._running is None and not self._closed:
            cause = Failure()
            cause.canceled_failure_info.details.CopyFrom(_NOT_STARTED)
            self._close("cancelled", self._cancelled_failure(cause, started=False), events=1)

    def drop(self) -> None:
        """The run has closed: the server forgets this activity."""
        self._closed = True
        self._timers.clear()

    def heartbeat(self, attempt: AttemptRun, details: Sequence[Payload]) -> activity.ActivityCancellationDetails | None:
        """Record a heartbeat; return what the server answers if the activity should stop."""
        if self._closed or attempt is not self._running:
            return activity.ActivityCancellationDetails(not_found=True)
        self._heartbeat = details
        if self.heartbeat_timeout:
            self._set_timer("heartbeat", self.heartbeat_timeout)
        return activity.ActivityCancellationDetails(cancel_requested=True) if self.cancel_requested else None

    def report(self, attempt: AttemptRun, kind: str, result: Payload | Failure | None) -> None:
        """Take what the worker reports of an attempt."""
        if self._closed or attempt is not self._running:
            return
        attempt.end(f"failed: {reason(result)}" if isinstance(result, Failure) and kind == "failed" else kind)
        if attempt.pending_heartbeat is not None:
            self._heartbeat = attempt.pending_heartbeat
        if kind == "completed":
            if self.faults:
                self._completed(attempt, result)
            else:
                self._close("completed", result)
        elif kind == "cancelled" and self.cancel_requested:
            assert isinstance(result, Failure)
            self._close("cancelled", self._cancelled_failure(result))
        else:
            assert isinstance(result, Failure)
            state = self._retry(result)
            if state is not None:
                self._close("failed", self._failure("Activity task failed", result, state))

    def _completed(self, attempt: AttemptRun, result: Any) -> None:
        """End well, and let those faults come that lie behind such an end."""
        # Of a step that was cancelled, the await raises the cancel: no bug of the body can be there.
        self._close("completed", result, is_bug=not self.cancel_requested and self.faults.use("bug_after"))
        if self.faults.use("delivered_twice"):
            attempt.run_again("again")
        if self.faults.use("delivered_late"):
            self._world.late.append(attempt.run_late)

    def _dispatch(self) -> None:
        if self._closed or self._running is not None:
            return
        if self._to_start:
            self._timers.cancel("to start")
        attempt = self._running = self._last = AttemptRun(self._world, self, self._attempt)
        if self.to_close:
            self._set_timer("to close", self.to_close)
        if self.heartbeat_timeout:
            self._set_timer("heartbeat", self.heartbeat_timeout)
        attempt.start()

    def time_out(self, timeout: TimeoutType.ValueType) -> None:
        """A timeout has passed."""
        running, name = self._running, TIMEOUT_NAMES[timeout]
        ran = ", after its function ran" if running is not None and running.record.ran else ""
        self._record("timed_out", f"{name} timeout{ran}", attempt=self._attempt)
        if running is not None:
            running.end(f"{name} timeout")
            running.cancel_later()
        failure = timeout_failure(timeout)
        state = self._retry(failure)
        if state is None:
            return
        in_time = timeout in (TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE, TimeoutType.TIMEOUT_TYPE_HEARTBEAT)
        if in_time and state == RetryState.RETRY_STATE_TIMEOUT:
            # The server reports the lack of time for another attempt, not the timeout of this one.
            failure = timeout_failure(TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE)
        failure.timeout_failure_info.last_heartbeat_details.payloads.extend(self._heartbeat)
        if self._last_failure is not None:
            failure.cause.CopyFrom(self._last_failure)
        started = running is not None
        self._close(
            "timed out",
            self._failure("Activity task timed out", failure, state, started=started),
            events=2 if started else 1,
        )
        if running is not None and running.applies_late:
            self._world.late.append(running.run_late)

    def _retry(self, failure: Failure) -> RetryState.ValueType | None:
        """Wait for the next attempt and return None, or return why there is none."""
        if self._running is not None and self._running.applies_late:
            return RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
        if self.cancel_requested:
            return RetryState.RETRY_STATE_CANCEL_REQUESTED
        policy = self.command.retry_policy
        left = self._first_scheduled + self.total - self._world.time() if self.total else None
        delay, state = retry_delay(policy, self._attempt, failure, left)
        if state is not None:
            return state
        self._last_failure = failure
        self._running = None
        self._timers.cancel("to close")
        self._timers.cancel("heartbeat")
        if self._fails_for_ever(failure):
            return None  # the server tries forever: `waits_for` says so
        failed = self._attempt
        self._attempt += 1
        self._record("retrying", f"attempt {self._attempt} in {timedelta(seconds=delay)}", attempt=failed)
        self._timers.set("backoff", delay, self._again)
        return None

    def _fails_for_ever(self, failure: Failure) -> bool:
        info = failure.application_failure_info
        self._alike = self._alike + 1 if reason(failure) == self._alike_reason else 1
        self._alike_reason = reason(failure)
        is_bug = info.type in _BUGS or failure.message == NOT_DECODED
        if not self.total and (self._attempt >= MAX_ATTEMPTS or (is_bug and self._alike >= MAX_ATTEMPTS_OF_BUG)):
            self._gave_up = True
        return self._gave_up

    def _again(self) -> None:
        self._scheduled = self._world.time()
        if self._to_start:
            self._set_timer("to start", self._to_start)
        self._dispatch()

    def _close(self, state: CallState, result: Any, *, events: int = 2, is_bug: bool = False) -> None:
        self._closed = True
        self._timers.clear()
        # An attempt holds its task: so both go without the garbage collector.
        self._running = None
        if state == "completed":
            self._last = None
        proto = WorkflowActivationJob()
        resolve = proto.resolve_activity
        resolve.seq = self.seq
        if state == "completed":
            resolve.result.completed.result.CopyFrom(result)
        elif state == "cancelled":
            resolve.result.cancelled.failure.CopyFrom(result)
        else:
            resolve.result.failed.failure.CopyFrom(result)
        self._on_end(self, ActivityEnd(state, proto, events, is_bug))

    def _failure(
        self,
        message: str,
        cause: Failure,
        state: RetryState.ValueType = RetryState.RETRY_STATE_UNSPECIFIED,
        *,
        started: bool = True,
    ) -> Failure:
        failure = Failure(message=message, cause=cause)
        info = failure.activity_failure_info
        info.activity_id = self.activity_id
        info.activity_type.name = self.command.activity_type
        info.scheduled_event_id = self._scheduled_event
        # The next event: the server writes the start of an activity when it ends.
        info.started_event_id = self._run.events + 1 if started else 0
        info.retry_state = state
        info.identity = "simulation" if started else ""
        return failure

    def _cancelled_failure(self, cause: Failure, *, started: bool = True) -> Failure:
        state = RetryState.RETRY_STATE_CANCEL_REQUESTED
        return self._failure("Activity cancelled", cause, state, started=started)

    def failure_of_core(self) -> Failure:
        """Return the failure with which core ends a cancelled activity by itself."""
        cause = Failure()
        cause.canceled_failure_info.SetInParent()
        failure = self._cancelled_failure(cause, started=False)
        failure.activity_failure_info.scheduled_event_id = 0
        return failure

    def _set_timer(self, name: str, delay: float) -> None:
        self._timers.set(name, delay, self.time_out, _TIMEOUTS[name])

    def stop_timers(self) -> None:
        """Let no timeout come any more."""
        self._timers.clear()

    def _record(self, kind: str, detail: str = "", *, attempt: int | None = None) -> None:
        self._world.journal.record(kind, self.call.label, detail, attempt=attempt)

    def info(self, attempt: int) -> Callable[[], activity.Info]:
        """Return what tells the attempt's `activity.info()`; many an activity never asks."""
        return Once(partial(self._make_info, attempt, self._scheduled, self._world.time(), self._heartbeat))

    def _make_info(self, attempt: int, scheduled: float, started: float, heartbeat: Sequence[Payload]) -> activity.Info:
        command, start, world = self.command, self._run.start, self._world
        return activity_info(
            activity_id=self.activity_id,
            activity_type=command.activity_type,
            attempt=attempt,
            current_attempt_scheduled_time=world.date(scheduled),
            heartbeat_details=world.parts.converter.decode(heartbeat),
            heartbeat_timeout=_optional(self.heartbeat_timeout),
            namespace="default",
            schedule_to_close_timeout=_optional(self.total),
            scheduled_time=world.date(self._first_scheduled),
            start_to_close_timeout=_optional(self.to_close),
            started_time=world.date(started),
            task_queue=command.task_queue or start.task_queue,
            task_token=f"{start.run_id}:{self._scheduled_event}:{attempt}".encode(),
            workflow_id=start.workflow_id,
            workflow_namespace="default",
            workflow_run_id=start.run_id,
            workflow_type=start.workflow_type,
            priority=priority_of(command.priority),
            retry_policy=effective(command.retry_policy),
        )


class _Timers:
    """The timeouts and the wait of one activity, by name."""

    def __init__(self, world: World) -> None:
        self._loop = world.loop
        self._timers: dict[str, Handle] = {}

    def set(self, name: str, delay: float, callback: Callable[..., None], *args: Any) -> None:
        before = self._timers.get(name)
        if before is not None:
            before.cancel()
        self._timers[name] = self._loop.later(delay, callback, *args)

    def cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def clear(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


@lru_cache
def _effective_timeouts(
    total: float, to_start: float, to_close: float, heartbeat: float, longest: float
) -> tuple[float, float, float, float]:
    """Return the timeouts as on the server: one that is not given is the next wider one, and none is longer than it."""
    total = _within(total, longest)
    to_close = _within(to_close, total)
    return total, _within(to_start, total), to_close, min(heartbeat, to_close) if to_close else heartbeat


def _within(timeout: float, widest: float) -> float:
    return min(timeout, widest) if timeout and widest else timeout or widest


def _optional(duration: float) -> timedelta | None:
    return timedelta(seconds=duration) if duration else None
