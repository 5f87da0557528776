"""What the parts of one run share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from ._jobs import Inbox, Job
from ._sdk import RunStart
from ._world import World

Status = Literal["running", "completed", "failed", "cancelled", "terminated", "timed out", "continued as new"]


class Record(Protocol):
    """Notes an event."""

    def __call__(self, kind: str, label: str, detail: str = "", *, attempt: int | None = None) -> None: ...


class RunState:
    """How far a run has come, and what is on its way to it.

    Attributes:
        world: The world in which it runs.
        start: What it started with.
        is_main: Whether it is one of the main workflow's.
        status: How it has ended; "running" if it has not.
        is_open: Whether it has not ended.
        task: How many workflow tasks it has had.
        events: How many events its history has.
        size: How many bytes the payloads in it have, roughly.
        longest: How many seconds it may take at most; 0 without a limit.
        inbox: The jobs that wait for the next workflow task.
        at_once: Core's own answers, which come in the same workflow task.
        record: Notes an event; of a child, with its name.
        reminds: Whether the activation that runs was brought by a reminder of what is parked, and by nothing else.
    """

    def __init__(self, world: World, start: RunStart, *, is_main: bool, on_job: Callable[[], None]) -> None:
        self.world = world
        self.start = start
        self.is_main = is_main
        self.status: Status = "running"
        self.is_open: bool = True
        self.task = 0
        self.events = 1  # the start
        self.size = 0
        limit = start.run_timeout or start.execution_timeout
        self.longest: float = limit.total_seconds() if limit else 0.0
        self.inbox: Inbox = Inbox()
        self.at_once: list[Job] = []
        self.reminds: bool = False
        self.record: Record = world.journal.record if is_main else self._record_of_child
        self._on_job = on_job

    def close(self, status: Status) -> None:
        """Note how the run has ended."""
        self.status, self.is_open = status, False

    def enqueue(self, job: Job) -> None:
        """Take a job; it is delivered in its turn."""
        if self.is_open:
            self.inbox.put(job)
            self._on_job()
        else:
            job.drop()

    def _record_of_child(self, kind: str, label: str, detail: str = "", *, attempt: int | None = None) -> None:
        detail = f"{detail} ({self.start.workflow_id})".strip()
        self.world.journal.record(kind, label, detail, attempt=attempt)
