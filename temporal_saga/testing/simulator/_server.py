"""The virtual server: the workflow executions of one simulation.

A discrete-event model of what a server and the SDK's core do: one thing follows another as callbacks on the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from temporalio.api.common.v1 import Payload, RetryPolicy
from temporalio.api.enums.v1 import RetryState
from temporalio.api.failure.v1 import Failure

from ._jobs import Job
from ._retries import retry_delay
from ._run import Run
from ._run_state import Status
from ._sdk import RunStart
from ._workflows import Workflows
from ._world import World

_NOT_RETRYABLE = RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE  # protobuf looks a name up in Python, each time


class Execution:
    """A workflow id in use: a chain of runs, the last of which may be open."""

    def __init__(self, world: World, workflows: Workflows, *, main: bool, timeout: timedelta | None) -> None:
        self.runs: list[Run] = []
        self.on_close: list[Callable[[], None]] = []
        self.retry_state: RetryState.ValueType = _NOT_RETRYABLE
        """Why the last run was not tried again, in a parent's words."""
        self._world = world
        self._workflows = workflows
        self._is_main = main
        self._expires: float | None = None
        if timeout:
            self._expires = world.time() + timeout.total_seconds()
            world.loop.later(timeout.total_seconds(), self._expire)

    # --- its current run ---

    @property
    def run(self) -> Run:
        """The current run."""
        return self.runs[-1]

    @property
    def first_run_id(self) -> str:
        """The id of the first run."""
        return self.runs[0].start.run_id

    @property
    def status(self) -> Status:
        """The status of the current run."""
        return self.run.state.status

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.run.state.is_open

    @property
    def result(self) -> Payload | None:
        """What the current run returned."""
        return self.run.result

    @property
    def failure(self) -> Failure | None:
        """How the current run failed."""
        return self.run.failure

    def signal(self, name: str, args: Sequence[Payload], headers: Mapping[str, Payload]) -> None:
        """Send a signal."""
        self.run.state.enqueue(self.run.messages.signal(name, args, headers))

    def cancel_job(self, reason: str) -> Job | None:
        """Return the job of the cancellation; None if it was requested before, or there is nothing to cancel."""
        return self.run.messages.cancel(reason) if self.is_open else None

    def request_cancel(self, reason: str) -> None:
        """Request the cancellation."""
        job = self.cancel_job(reason)
        if job is not None:
            self.run.state.enqueue(job)

    def terminate(self, reason: str) -> None:
        """End it at once."""
        self.run.terminate(reason)

    def _expire(self) -> None:
        if self.is_open:
            self.retry_state = RetryState.RETRY_STATE_TIMEOUT
            self.run.expire()

    # --- its chain of runs ---

    def start_run(self, start: RunStart, delay: float = 0.0) -> None:
        """Begin a run."""
        run = Run(self._world, start, self, self._workflows, is_main=self._is_main)
        self.runs.append(run)
        if delay:
            self._world.loop.later(delay, run.begin)
        else:
            self._world.loop.soon(run.begin)

    def continue_with(self, start: RunStart, delay: float = 0.0) -> None:
        """Begin the next run."""
        run_id, seed = self._world.new_run(start.workflow_id)
        started = self._world.date(self._world.time())
        before = self.run.start.run_id
        self.start_run(start.but(run_id=run_id, continued_run_id=before, started=started, seed=seed), delay)

    def next_attempt(self, failure: Failure) -> tuple[RunStart, float] | None:
        """Return the start of the retrying run and its delay in seconds; None if the workflow is not retried."""
        start = self.run.start
        if start.retry_policy is None:
            self.retry_state = RetryState.RETRY_STATE_RETRY_POLICY_NOT_SET
            return None
        policy = RetryPolicy()
        start.retry_policy.apply_to_proto(policy)
        left = None if self._expires is None else self._expires - self._world.time()
        delay, final = retry_delay(policy, start.attempt, failure, left, of_workflow=True)
        self.retry_state = final or RetryState.RETRY_STATE_IN_PROGRESS
        if final is not None:
            return None
        return start.but(attempt=start.attempt + 1, last_failure=failure), delay

    def closed(self) -> None:
        """Tell those who wait for the end."""
        waiting, self.on_close = self.on_close, []
        for callback in waiting:
            callback()


class Server:
    """All executions of one simulation."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.executions: list[Execution] = []
        self._by_id: dict[str, Execution] = {}

    def start(
        self,
        workflow_type: str,
        args: Sequence[Payload],
        *,
        workflow_id: str,
        task_queue: str,
        execution_timeout: timedelta | None = None,
        run_timeout: timedelta | None = None,
        main: bool = False,
        **fields: Any,
    ) -> Execution:
        """Start a workflow."""
        world = self.world
        # As on the server: no run is to last longer than the whole.
        run_timeout = min(filter(None, (run_timeout, execution_timeout)), default=None)
        definition = world.definition(workflow_type)
        run_id, seed = world.new_run(workflow_id)
        execution = Execution(world, self, main=main, timeout=execution_timeout)
        self._by_id[workflow_id] = execution
        self.executions.append(execution)
        execution.start_run(
            RunStart(
                definition=definition,
                workflow_type=workflow_type,
                workflow_id=workflow_id,
                run_id=run_id,
                first_run_id=run_id,
                args=args,
                started=world.date(world.time()),
                seed=seed,
                task_queue=task_queue,
                execution_timeout=execution_timeout,
                run_timeout=run_timeout,
                **fields,
            )
        )
        return execution

    def find(self, workflow_id: str) -> Execution | None:
        """Return the workflow with that id, open or not."""
        return self._by_id.get(workflow_id)

    def find_open(self, workflow_id: str, run_id: str = "") -> Execution | None:
        """Return the open workflow with that id, if its current run has that run id or none is given."""
        execution = self._by_id.get(workflow_id)
        if execution is None or not execution.is_open or (run_id and execution.run.start.run_id != run_id):
            return None
        return execution

    def run(self, main: Execution) -> None:
        """Let everything happen."""
        world = self.world

        def on_idle() -> bool:
            if world.held and not world.loop.has_timers:
                world.held.pop(0)()
                return True
            if world.late and (not main.is_open or not world.loop.has_timers):
                world.late.pop(0)()
                return True
            return False

        world.loop.run(on_idle)

    def stop(self) -> None:
        """End what still runs: functions that wait for what never comes, and instances with tasks in them."""
        self.world.stop()
        for execution in self.executions:
            for run in execution.runs:
                run.cached.instance.evict()
