"""One attempt of an activity, as the worker runs it, and the faults that lie on it. Read in temporalio 1.35."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from temporalio import activity, exceptions
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_commands import ScheduleActivity

from ._clock import worker
from ._errors import SimulationError
from ._pending import CallFaults
from ._provider import provider
from ._retries import reason
from ._sdk import ActivityRun, Once, activity_args, completes_async
from ._trace import FAILURE_TYPE, Attempt, Call
from ._world import World

# A worker gives an attempt that has timed out on the server this long before it cancels the function by itself
# (`local_timeout_buffer_for_activities` in the SDK's core).
LOCAL_TIMEOUT_BUFFER = 5.0
# How often a worker sends heartbeats at most: 0.8 of the timeout, up to the second; the first without a timeout.
HEARTBEAT_THROTTLE, MAX_HEARTBEAT_THROTTLE = 30.0, 60.0
# How much earlier than its timeout a `slow` attempt ends.
SLOW_MARGIN = 0.001

NOT_DECODED = "Failed decoding arguments"  # as the SDK's worker says


class Task(Protocol):
    """An activity, as the worker that runs its attempts sees it."""

    call: Call
    command: ScheduleActivity
    definition: Any
    faults: CallFaults
    total: float
    to_close: float
    heartbeat_timeout: float

    def info(self, attempt: int) -> Callable[[], activity.Info]:
        """Return what tells the attempt's `activity.info()`."""
        ...

    def heartbeat(self, attempt: AttemptRun, details: Sequence[Payload]) -> activity.ActivityCancellationDetails | None:
        """Take a heartbeat; return the server's answer if the activity should stop."""
        ...

    def report(self, attempt: AttemptRun, kind: str, result: Payload | Failure | None) -> None:
        """Take how an attempt ended."""
        ...

    def time_out(self, timeout: TimeoutType.ValueType) -> None:
        """A timeout has passed."""
        ...

    def stop_timers(self) -> None:
        """Let no timeout come any more."""
        ...


class AttemptRun:
    """One attempt, on the worker."""

    def __init__(self, world: World, task: Task, number: int) -> None:
        self._world = world
        self._task = task
        self._faults = task.faults
        self.pending_heartbeat: Sequence[Payload] | None = None
        self.applies_late: bool = number == 1 and bool(self._faults) and self._faults.has("applies_late")
        self.record: Attempt = world.journal.begin_attempt(task.call, number)
        self._info: Callable[[], activity.Info] = task.info(number)
        self._converter = world.parts.converter.of_activity(self._info)
        self._run: ActivityRun | None = None
        self._done = False
        self._throttled_until = -1.0
        self._heartbeat_error: Exception | None = None
        self._is_slow = False
        self._again = ""

    def end(self, outcome: str) -> None:
        """The attempt has ended for the server."""
        if self in self._world.completed_by_client:
            self._world.completed_by_client.remove(self)
        self._world.journal.end_attempt(self.record, outcome)

    def start(self) -> None:
        """Take the attempt; then run the function, unless a fault of the call prevents that."""
        world = self._world
        world.journal.record("attempt", self._task.call.label, "", attempt=self.record.number)
        # Behind the faults that come in front of the next activation: they find it started.
        world.loop.soon(self._begin)

    def _begin(self) -> None:
        if not self._faults:
            self._call()  # as in most attempts
        elif not self._is_struck():
            self._go()

    def _is_struck(self) -> bool:
        """Let the faults come that lie on the begin; whether one keeps the function from running now."""
        task, faults, world = self._task, self._faults, self._world
        lasting = faults.use("fails_before")
        is_down = not lasting and faults.in_outage(world.time())
        if lasting or is_down or (self.record.number == 1 and faults.use("fails_once")):
            what = "an outage" if is_down else "simulated failure, its function did not run"
            error = exceptions.ApplicationError(what, type=FAILURE_TYPE, non_retryable=lasting)
            self._report("failed", world.parts.converter.to_failure(error))
            return True
        if self.applies_late and faults.use("applies_late"):
            if not (task.command.start_to_close_timeout.ByteSize() or task.total):
                world.loop.call_soon(task.time_out, TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE)
            return True
        if self.record.number == 1 and faults.use("slow"):
            limits = [limit for limit in (task.to_close, task.heartbeat_timeout, task.total) if limit]
            self._is_slow = True
            world.loop.call_later(max(min(limits, default=10.0) - SLOW_MARGIN, 0.0), self._go_slowly)
            return True
        return False

    def _go_slowly(self) -> None:
        # A function that waits by itself may take as long as it needs: only its start had to be late.
        if not self._faults.has("worker_lost"):  # a lost worker reports nothing: a timeout has to end the attempt
            self._task.stop_timers()
        self._go()

    def run_late(self) -> None:
        """Run the function after all else: its call has timed out, or another attempt has done the work."""
        self.run_again("late" if self.applies_late else "again")

    def run_again(self, kind: str) -> None:
        """Run the function again, without a report to the server."""
        self.record = self._world.journal.begin_attempt(self._task.call, self.record.number, late=True)
        self._again = kind
        # To a fence this is another run: a fence tells runs apart by this object.
        before = self._info
        self._info = Once(lambda: copy.copy(before()))
        self._done = False
        self._go(silent=True)

    def cancel_later(self) -> None:
        """The server has timed the attempt out: the worker cancels the function on its own in a while."""
        details = activity.ActivityCancellationDetails(timed_out=True)
        self._world.loop.call_later(LOCAL_TIMEOUT_BUFFER, self._cancel, details)

    def _go(self, *, silent: bool = False) -> None:
        if self._done or (self._run is not None and not silent):
            return
        lost = self.record.number == 1 and not silent and self._faults.use("worker_lost")
        after = not silent and self._faults.use("fails_after")
        self._call(report=not silent and not lost, lose_reply=after)

    def _call(self, *, report: bool = True, lose_reply: bool = False) -> None:
        self._world.start_function(self._execute(report, lose_reply))

    async def _execute(self, report: bool, lose_reply: bool) -> None:
        task, world, record = self._task, self._world, self.record
        kind: str
        result: Payload | Failure | None = None
        run = self._run = ActivityRun(
            world.parts,
            task.definition,
            self._info,
            task.command,
            self._on_heartbeat,
            partial(world.journal.note_ran, record),
            self._on_wait,
        )
        if not record.late:
            provider.set(self._provider_fails)
            worker.set(self)
        try:
            try:
                args = activity_args(self._converter, task.definition, task.command.arguments)
            except Exception as error:
                raise exceptions.ApplicationError(NOT_DECODED) from error
            value = await run(args)
            result = self._converter.encode_result(value)
            kind = "completed"
        except BaseException as error:
            self._done = True
            if isinstance(error, (KeyboardInterrupt, SystemExit, SimulationError)) or world.is_stopping:
                if not world.is_stopping:
                    world.fail(error)
                return
            if completes_async(error) and not lose_reply:
                if report:
                    self._done = False
                    world.completed_by_client.append(self)
                elif record.late:
                    self.end("left to a client, late")
                return
            kind, result = self._failed(*self._kind_of(error, run))
        self._done = True
        if self._run is run:  # else the function runs again
            self._run = None  # Each holds the other: so they go without the garbage collector.
        if lose_reply:
            what = f"simulated failure, {'its function ran' if record.ran else 'its function raised'}"
            lost = exceptions.ApplicationError(what, type=FAILURE_TYPE, non_retryable=True)
            kind, result = "failed", self._converter.to_failure(lost)
        if report:
            self._report(kind, result)
        elif record.late:
            why = f": {reason(result)}" if isinstance(result, Failure) else ""
            self.end(f"{kind}, late{why}")
            said = "its function ran" if record.ran else f"its function raised{why.removeprefix(':')}"
            world.journal.record(self._again, task.call.label, said, attempt=record.number)

    def _provider_fails(self, at: str) -> bool:
        self._task.call.asks_provider = True
        return self._faults.use(f"provider_{at}")

    def _on_wait(self, function: object) -> Awaitable[object] | None:
        """The function waits; return what it waits for instead, if its worker dies."""
        record = self.record
        self._task.call.waits = True
        if record.late or record.number > 1 or not self._faults.use("worker_lost_inside"):
            return None
        self._done = True
        self._world.loop.lose(self, function)
        return self._for_ever()

    async def _for_ever(self) -> None:
        worker.set(None)  # this task goes on, to end with the simulation
        while not self._world.is_stopping:
            with suppress(asyncio.CancelledError):  # no cancel reaches a worker that is dead
                await self._world.loop.create_future()
        raise asyncio.CancelledError

    # --- asynchronous completion ---

    @property
    def info(self) -> activity.Info:
        """What the attempt's `activity.info()` is."""
        return self._info()

    def complete_by_client(self, kind: str, value: Any) -> None:
        """End an attempt that its function has left to a client."""
        self._world.completed_by_client.remove(self)
        self._done = True
        if kind == "completed":
            self._world.journal.note_ran(self.record)
            self._report(kind, self._converter.encode_result(value))
        else:
            self._report(*self._failed(kind, value))

    def heartbeat_by_client(self, details: Sequence[Any]) -> bool:
        """Record a heartbeat; whether the activity's cancellation is requested."""
        answer = self._task.heartbeat(self, self._converter.encode(details) if details else ())
        return answer is not None

    def _kind_of(self, error: BaseException, run: ActivityRun) -> tuple[str, BaseException]:
        if isinstance(error, (asyncio.CancelledError, exceptions.CancelledError)):
            if self._heartbeat_error is not None:
                return "failed", self._heartbeat_error
            if run.cancelled_by_request:
                return "cancelled", exceptions.CancelledError("Cancelled")
        return "failed", error

    def _failed(self, kind: str, error: BaseException) -> tuple[str, Failure]:
        try:
            return kind, self._converter.to_failure(error)
        except Exception as inner:  # as the SDK's worker does
            failure = Failure(message=f"Failed building exception result: {inner}")
            failure.application_failure_info.SetInParent()
            return "failed", failure

    def _report(self, kind: str, result: Payload | Failure | None) -> None:
        self._task.report(self, kind, result)

    # --- heartbeats ---

    def _on_heartbeat(self, *details: Any) -> None:
        if self._done:
            return
        try:
            self.pending_heartbeat = self._converter.encode(details) if details else ()
        except Exception as error:
            self._heartbeat_error = error
            self._cancel(activity.ActivityCancellationDetails())
            return
        if self._world.time() >= self._throttled_until:
            self._send()

    def _send(self) -> None:
        if self._done or self.pending_heartbeat is None:
            return
        details, self.pending_heartbeat = self.pending_heartbeat, None
        timeout = self._task.heartbeat_timeout
        throttle = min(timeout * 0.8, MAX_HEARTBEAT_THROTTLE) if timeout else HEARTBEAT_THROTTLE
        self._throttled_until = self._world.time() + throttle
        self._world.loop.call_later(throttle, self._send)
        answer = self._task.heartbeat(self, details)
        if answer is not None:
            self._world.loop.call_soon(self._cancel, answer)

    def _cancel(self, details: activity.ActivityCancellationDetails) -> None:
        if self._run is not None and not self._done and not self._is_slow and self._task.definition.is_async:
            self._run.cancel(details)
