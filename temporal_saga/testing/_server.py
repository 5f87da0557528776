# pyright: reportPrivateUsage=false
"""The virtual server: workflow executions, the clock they share, and what has been seen.

A discrete-event model of what a server and the SDK's core do: one thing follows another as callbacks on its clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Literal, NoReturn
from uuid import NAMESPACE_OID, uuid5

from temporalio import common
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import RetryState

from temporal_saga._seed import seed_of

from ._clock import VirtualLoop
from ._errors import SimulationError
from ._plan import Plan
from ._run import Run, Status
from ._sdk import RunStart, WorkerParts
from ._trace import Attempt, Call, CallState, TraceEvent, step_of

_MICROSECOND = timedelta(microseconds=1)


@lru_cache
def _id_and_seed(workflow_id: str, number: int) -> tuple[str, int]:
    run_id = str(uuid5(NAMESPACE_OID, f"{workflow_id}/{number}"))
    return run_id, seed_of(run_id)


class Execution:
    """A workflow id in use: a chain of runs, the last of which may be open."""

    def __init__(self, server: Server, *, main: bool) -> None:
        self.server = server
        self.is_main = main
        self.runs: list[Run] = []
        self.on_close: list[Callable[[], None]] = []
        self.expires: float | None = None
        self.cancel_requested = False
        self.retry_state: RetryState.ValueType = RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
        """Why the last run was not tried again, in a parent's words."""

    @property
    def run(self) -> Run:
        """The current run."""
        return self.runs[-1]

    @property
    def status(self) -> Status:
        """The status of the current run."""
        return self.run.status

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.run.status == "running"

    def start_run(self, start: RunStart, *, delay: float = 0.0) -> None:
        """Begin a run."""
        run = Run(self, start)
        self.runs.append(run)
        self.server.call_in(delay, run.begin)

    def closed(self) -> None:
        """Tell those who wait."""
        waiting, self.on_close = self.on_close, []
        for callback in waiting:
            callback()


class Server:
    """All executions of one simulation, their clock, and what has been seen."""

    def __init__(
        self,
        parts: WorkerParts,
        loop: VirtualLoop,
        *,
        start_time: datetime,
        faults: Plan,
        unserved: Collection[str],
        max_activations: int,
    ) -> None:
        self.parts = parts
        self.loop = loop
        self.faults = faults
        self.unserved = unserved
        self.max_activations = max_activations
        self.executions: dict[str, Execution] = {}
        self.all_executions: list[Execution] = []
        self.trace: list[TraceEvent] = []
        self.calls: list[Call] = []
        self.functions: set[asyncio.Task[Any]] = set()
        self.late: list[Any] = []
        self.task_failures: list[str] = []
        self.differences: list[str] = []
        self.activation = 0
        self.activations = 0
        self.stopping: bool = False
        self._start_time = start_time
        self._since_1970 = start_time - datetime.fromtimestamp(0, timezone.utc)
        self._order = 0
        self._uses: dict[str, int] = {}
        self._run_numbers: dict[str, int] = {}
        self._error: BaseException | None = None

    def time(self) -> float:
        """Return the seconds since the start."""
        return self.loop.time()

    def date(self, time: float) -> datetime:
        """Return the date at so many seconds since the start."""
        return self._start_time + timedelta(seconds=time)

    def nanoseconds(self) -> int:
        """Return what the time is, in nanoseconds since 1970."""
        return (self._since_1970 + timedelta(seconds=self.loop.time())) // _MICROSECOND * 1_000

    def call_in(self, delay: float, callback: Callable[[], None]) -> None:
        """Call back at once, or in a while."""
        if delay:
            self.loop.call_later(delay, callback)
        else:
            self.loop.call_soon(callback)

    def next_order(self) -> int:
        """Return the place of what happens now among all that happens."""
        self._order += 1
        return self._order

    def record(self, kind: str, label: str, detail: str = "", *, attempt: int | None = None) -> None:
        """Note an event."""
        self.trace.append(
            TraceEvent(timedelta(seconds=self.loop.time()), kind, label, attempt, detail, self.activation)
        )

    def fail(self, error: BaseException) -> NoReturn:
        """Stop the simulation with this error."""
        self._error = self._error or error
        self.loop.stop()
        raise error

    @property
    def error(self) -> BaseException | None:
        """What stopped the simulation."""
        return self._error

    def new_run(self, workflow_id: str) -> tuple[str, int]:
        """Return the id and the seed of the next run of a workflow: the same in each simulation."""
        number = self._run_numbers[workflow_id] = self._run_numbers.get(workflow_id, 0) + 1
        return _id_and_seed(workflow_id, number)

    def definition(self, workflow_type: str) -> Any:
        """Return the workflow of that name."""
        found = self.parts.workflow(workflow_type)
        if found is None:
            self.fail(
                SimulationError(
                    f"workflow {workflow_type!r} is not registered; registered: "
                    f"{', '.join(sorted(map(str, self.parts.workflows)))}. Give it with workflows=[...] "
                    "(a real worker would fail the workflow task, and the server would retry for ever)"
                )
            )
        return found

    def start(
        self,
        workflow_type: str,
        args: Sequence[Payload],
        *,
        workflow_id: str,
        task_queue: str,
        main: bool = False,
        execution_timeout: timedelta | None = None,
        **fields: Any,
    ) -> Execution:
        """Start a workflow."""
        execution = Execution(self, main=main)
        self.executions[workflow_id] = execution
        self.all_executions.append(execution)
        run_id, seed = self.new_run(workflow_id)
        execution.start_run(
            RunStart(
                definition=self.definition(workflow_type),
                workflow_type=workflow_type,
                workflow_id=workflow_id,
                run_id=run_id,
                first_run_id=run_id,
                args=args,
                started=self.date(self.time()),
                seed=seed,
                task_queue=task_queue,
                execution_timeout=execution_timeout,
                **fields,
            )
        )
        if execution_timeout:
            execution.expires = self.time() + execution_timeout.total_seconds()
            self.loop.call_later(execution_timeout.total_seconds(), lambda: execution.run.expire())
        return execution

    def may_reuse(self, existing: Execution, policy: int) -> bool:
        """Whether a child may start under the id of an execution, which is terminated if the policy says so."""
        if policy == common.WorkflowIDReusePolicy.TERMINATE_IF_RUNNING:
            existing.run.terminate("by the id reuse policy of another")
            return True
        if existing.is_open or policy == common.WorkflowIDReusePolicy.REJECT_DUPLICATE:
            return False
        failed_only = policy == common.WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
        return not (failed_only and existing.status == "completed")

    def open_run(self, workflow_id: str, run_id: str = "") -> Run | None:
        """Return the open run of a workflow id, of that run id if one is given."""
        execution = self.executions.get(workflow_id)
        if execution is None or not execution.is_open or (run_id and execution.run.start.run_id != run_id):
            return None
        return execution.run

    def request_cancel(self, execution: Execution, reason: str) -> None:
        """Request the cancellation of a workflow."""
        run = execution.run
        if run.status != "running":
            return
        job = run.cancel_job(reason)
        if job is not None:
            run.enqueue(job)

    # --- calls ---

    def new_call(self, kind: Literal["activity", "child"], name: str, activity_id: str, run: Run) -> Call:
        """Note the call of an activity, or of a child that a saga starts."""
        step = step_of(activity_id)
        label = step.label if step else name
        nth = self._uses[label] = self._uses.get(label, 0) + 1
        call = Call(label, nth, kind, name, activity_id, run.start.run_id, self.activation)
        if step:
            call.name, call.phase, call.key, call.forward_key = step.name, step.phase, step.key, step.forward_key
        self.calls.append(call)
        return call

    def forget_call(self, call: Call) -> None:
        """Take out the call of what never left the worker."""
        self.calls.remove(call)
        self._uses[call.label] -= 1

    def begin_child_call(self, call: Call) -> None:
        """A child that a saga started has begun."""
        call.attempts.append(Attempt(1, timedelta(seconds=self.time()), began_order=self.next_order()))

    def end_child_call(self, call: Call, status: str) -> None:
        """It has ended."""
        attempt = call.attempts[-1]
        attempt.ended, attempt.outcome = timedelta(seconds=self.time()), status
        attempt.ended_order = self.next_order()
        if status == "completed":
            attempt.ran, attempt.ran_order = True, self.next_order()
        if call.state == "pending":
            ends: dict[str, CallState] = {"completed": "completed", "cancelled": "cancelled", "timed out": "timed out"}
            call.state = ends.get(status, "failed")

    # --- running ---

    def run(self, main: Execution) -> None:
        """Let everything happen."""

        def on_idle() -> bool:
            if self.late and (not main.is_open or not self.loop.has_timers):
                self.late.pop(0).run_late()
                return True
            return False

        self.loop.run(on_idle)

    def function_ended(self, task: asyncio.Task[Any]) -> None:
        """A function has ended; what it raised has been dealt with."""
        self.functions.discard(task)
        if self.stopping and not self.functions:
            self.loop.stop()
        if not task.cancelled():
            task.exception()
        if self.loop.refused is not None and not self.stopping:
            self.fail(self.loop.refused)

    def stop(self) -> None:
        """End what still runs: functions that wait for what never comes, and instances with tasks in them."""
        self.stopping = True
        for task in list(self.functions):
            task.cancel()
        if self.functions:
            self.loop.run()
        for execution in self.all_executions:
            for run in execution.runs:
                run.instance.evict()
