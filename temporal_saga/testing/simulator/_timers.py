"""The timers of one run."""

from __future__ import annotations

import dataclasses
import functools
from datetime import timedelta
from typing import Any

from temporalio.bridge.proto.workflow_activation import FireTimer, WorkflowActivationJob

from ._clock import Handle
from ._jobs import Job
from ._retries import seconds
from ._run_state import RunState


@dataclasses.dataclass(eq=False)
class _Timer:
    delay: float
    handle: Handle
    task: int
    job: Job | None = None

    def __str__(self) -> str:
        return str(timedelta(seconds=self.delay))


class Timers:
    """Takes a run's commands for timers."""

    def __init__(self, run: RunState) -> None:
        self._run = run
        self._pending: dict[int, _Timer] = {}

    @property
    def waits_for(self) -> list[str]:
        """What the workflow waits for, for people."""
        return [f"a timer of {timer}" for timer in self._pending.values()]

    def start(self, command: Any) -> None:
        """Take the command that starts a timer."""
        self._run.events += 1
        delay = seconds(command.start_to_fire_timeout)
        handle = self._run.world.loop.later(delay, self._fire, command.seq)
        if self._run.reminds:
            self._run.world.note_reminder(handle)
        timer = self._pending[command.seq] = _Timer(delay, handle, self._run.task)
        self._run.record("timer_started", str(timer))

    def cancel(self, command: Any) -> None:
        """Take the command that cancels a timer."""
        timer = self._pending.pop(command.seq, None)
        if timer is None:
            return
        self._run.events += -1 if timer.task == self._run.task else 1  # core drops both commands
        self._run.record("timer_cancelled", str(timer))
        timer.handle.cancel()
        if timer.job:
            timer.job.revoked = True

    def _fire(self, seq: int) -> None:
        timer = self._pending[seq]
        self._run.record("timer_fired", str(timer))
        job = timer.job = Job(WorkflowActivationJob(fire_timer=FireTimer(seq=seq)))
        job.delivered = functools.partial(self._forget, seq)
        self._run.enqueue(job)

    def _forget(self, seq: int) -> None:
        self._pending.pop(seq, None)

    def close(self) -> None:
        """The run has closed: none of its timers fires."""
        for timer in self._pending.values():
            timer.handle.cancel()
