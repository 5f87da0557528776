"""Jobs on their way to a run."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import WorkflowActivationJob


@dataclasses.dataclass(eq=False)
class Job:
    """Something that happened to a run, on its way into an activation."""

    proto: WorkflowActivationJob
    events: int = 1
    kind: str = ""
    label: str = ""
    numbered: Callable[[int], None] | None = None
    delivered: Callable[[], None] | None = None
    dropped: Callable[[], None] | None = None
    instead: WorkflowActivationJob | None = None
    """The job that comes in place of this one, once this one has failed its workflow task."""
    revoked: bool = False
    of_reminder: bool = False
    """Whether it is the end of a reminder of what is parked."""

    @property
    def is_message(self) -> bool:
        """Whether this came from outside."""
        return self.kind in ("signal", "update", "cancel")

    def drop(self) -> None:
        """The run has closed before this could come."""
        if self.dropped:
            self.dropped()


@dataclasses.dataclass(eq=False)
class Update:
    """An update on its way through a workflow."""

    accepted: asyncio.Future[None]
    completed: asyncio.Future[Payload | Failure]


class Inbox:
    """The jobs that wait for a run's next workflow task, in the order in which they came."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def put(self, job: Job) -> None:
        """Take a job in."""
        self._jobs.append(job)

    def put_first(self, job: Job) -> None:
        """Take a job in, in front of all others."""
        self._jobs.appendleft(job)

    def take(self) -> list[Job]:
        """Return the jobs of the next workflow task: none if nothing has come."""
        jobs = self._jobs
        while jobs and jobs[0].revoked:
            jobs.popleft()
        if len(jobs) < 2:
            return [jobs.popleft()] if jobs else []
        first = jobs.popleft()
        # A message is never lost: one that arrives before a workflow task begins is in that task.
        messages = [job for job in self._jobs if job.is_message]
        self._jobs = deque(job for job in self._jobs if not job.is_message)
        return [first, *messages]

    def take_all(self) -> list[Job]:
        """Return all jobs that have come."""
        jobs = [job for job in self._jobs if not job.revoked]
        self._jobs.clear()
        return jobs

    @property
    def has_several(self) -> bool:
        """Whether more than one job has come."""
        return sum(not job.revoked for job in self._jobs) > 1

    def close(self) -> None:
        """Drop the jobs that have not come."""
        for job in self._jobs:
            job.drop()
        self._jobs.clear()
