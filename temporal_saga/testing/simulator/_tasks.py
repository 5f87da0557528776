"""The workflow tasks of one run: jobs go in, commands come out.

Each job is delivered in an activation of its own, in the order in which things happened. Core's own answers come in the
same workflow task: an activity that is cancelled in the task that scheduled it never leaves the worker, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import WorkflowActivationJob
from temporalio.bridge.proto.workflow_commands import WorkflowCommand

from ._cached import CachedRun
from ._faults import ActivationFault
from ._jobs import Job
from ._messages import Messages
from ._pending import PendingFaults
from ._run_state import RunState

_IN = re.compile(r", in (\w+)")
_BYTES_OF_EVENT = 100  # about what an event takes beside its payloads


class WorkflowTasks:
    """Makes workflow tasks of what comes, lets faults come in front of them, and tries again what failed."""

    def __init__(
        self,
        state: RunState,
        cached: CachedRun,
        messages: Messages,
        *,
        take: Callable[[WorkflowCommand], None],
        on_end: Callable[[], None],
    ) -> None:
        self.on_begin: list[Callable[[], None]] = []
        """Called once the next workflow task is over."""
        self._state = state
        # Faults lie on the activations of the main workflow alone.
        self._faults: PendingFaults = state.world.faults if state.is_main else PendingFaults(())
        self._world = state.world
        self._cached = cached
        self._messages = messages
        self._take_command = take
        self._on_end = on_end
        self._began = False
        self._slow: ActivationFault | None = None
        self._pumping = False
        self._failures: list[str] = []
        self._failing: list[Job] = []

    @property
    def failure(self) -> str:
        """Why the current workflow task fails; empty if it does not."""
        return self._failures[-1] if self._failing else ""

    def begin(self, job: Job) -> None:
        """Make the first workflow task. The job that starts the run comes before all that has come already."""
        self._began = True
        self._state.inbox.put_first(job)
        self.wake()

    def wake(self) -> None:
        """Make a workflow task soon: a job has come."""
        if self._began and not self._pumping:
            self._pumping = True
            self._world.loop.soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        jobs = self._jobs_with_faults() if self._slow or self._faults.of_activations else self._state.inbox.take()
        if not jobs:
            return
        self._deliver(jobs)
        if self._state.inbox:
            self.wake()

    def _jobs_with_faults(self) -> list[Job]:
        """Return the jobs of the next workflow task, its faults among them: none while a slow worker holds them."""
        if self._is_held():
            return []
        jobs = self._state.inbox.take_all() if self._slow else self._state.inbox.take()
        self._slow = None
        if jobs:
            jobs += self._messages.of_faults(self._take_faults_inside())
        return jobs

    def _is_held(self) -> bool:
        """Tell whether a slow worker has not come to what there is."""
        state, world = self._state, self._world
        if not state.inbox or not self._cached.activations:
            return False
        if self._slow is None:
            self._slow = self._faults.take_slow(world.journal.activation + 1)
            if self._slow is None:
                return False
            state.record("slow_worker", "worker")
            world.held.append(self._hold_no_longer)
        return not state.inbox.has_several

    def _hold_no_longer(self) -> None:
        """Nothing else is to come: the fault has changed nothing."""
        if self._slow is not None and not self._state.inbox.has_several:
            self._faults.put_back(self._slow)
            self._slow = None
            self.wake()

    def _take_faults(self) -> list[ActivationFault]:
        return self._faults.take(self._world.journal.activation + 1)

    def _take_faults_inside(self) -> list[ActivationFault]:
        """Take the faults that come in the next activation; in the first, so do those in front."""
        in_front = [] if self._cached.activations else self._take_faults()
        return [*in_front, *self._faults.take(self._world.journal.activation + 1, inside=True)]

    def _inject_if_due(self) -> None:
        """Let the faults come that are due in front of the next activation."""
        if not self._state.is_open or not self._faults.due(self._world.journal.activation + 1):
            return
        faults = self._take_faults()
        if any(fault.kind == "restart" for fault in faults):
            self._state.record("restart", "worker")
            self._restart()
        if jobs := self._messages.of_faults(faults):
            self._deliver(jobs)

    def _restart(self) -> None:
        difference = self._cached.restart()
        if difference is not None:
            self._world.journal.differences.append(difference)

    def _deliver(self, jobs: list[Job]) -> None:
        state = self._state
        if self._failing:
            jobs, self._failing = [*self._failing, *jobs], []
            self._restart()
        state.task += 1
        for job in jobs:
            state.events += job.events
            if job.numbered:
                job.numbered(state.events)
            if job.kind:
                state.record(job.kind, job.label)
        state.events += 2  # the workflow task scheduled and started
        length = state.events  # the same in all activations of a workflow task: the library goes by that
        state.events += 1  # the workflow task completed; its commands come behind that
        pending = jobs
        while pending and state.is_open:
            failed = self._activate(pending, length)
            for job in pending:
                if job.delivered:
                    job.delivered()
                    job.delivered = None
            if failed:
                state.events = length
                self._cached.forget(state.task)
                self._task_failed(jobs, failed)
                return
            pending, state.at_once = state.at_once, []
        state.at_once = []
        if self.on_begin:
            begun, self.on_begin = self.on_begin, []
            for callback in begun:
                callback()
        self._on_end()
        if state.is_open and self._faults.are_in_front:
            # Behind the begin of what has been scheduled, before any of it runs.
            self._world.loop.soon(self._inject_if_due)

    def _activate(self, jobs: Sequence[Job], length: int) -> Failure | None:
        """Deliver one activation; return the failure of the workflow task, if it failed."""
        state, world = self._state, self._world
        world.count_activation(of_main=state.is_main)
        protos: list[WorkflowActivationJob] = []
        state.reminds = True
        for job in jobs:
            protos.append(job.proto)
            state.size += job.proto.ByteSize()
            state.reminds &= job.of_reminder
        completion = self._cached.activate(
            protos, task=state.task, events=length, size=state.size + length * _BYTES_OF_EVENT, time=world.timestamp()
        )
        if completion.HasField("failed"):
            return completion.failed.failure
        for command in completion.successful.commands:
            state.size += command.ByteSize()
            if not state.is_open:
                break
            self._take_command(command)
        return None

    def _task_failed(self, jobs: Sequence[Job], failure: Failure) -> None:
        message = f"{failure.application_failure_info.type}: {failure.message}{_hint(failure)}"
        self._failures.append(message)
        self._world.journal.task_failures.append(message)
        self._state.record("task_failed", self._state.start.workflow_type, message)
        self._state.events += 1
        self._failing = list(jobs)
        is_bug = any(job.instead for job in jobs)
        for job in jobs:
            if job.instead is not None:
                job.proto, job.instead = job.instead, None
            job.kind, job.events = "", 0
        # The next deployment fixes a bug; else the server tries again, forever: here once.
        if is_bug or len(self._failures) == 1:
            self._world.loop.soon(self._try_again)

    def _try_again(self) -> None:
        if self._failing and self._state.is_open:
            self._deliver([])


def _hint(failure: Failure) -> str:
    """Return what to do about an error of asyncio's that says nothing itself."""
    if failure.application_failure_info.type != "NotImplementedError" or failure.message:
        return ""
    called = _IN.findall(failure.stack_trace)
    what = f"asyncio's {called[-1]}()" if called else "this"
    return f"{what} does not work in workflow code, which has no threads, files or sockets: call it in an activity"
