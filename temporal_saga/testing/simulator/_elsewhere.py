"""Histories that travel to another process, and replays of them there."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Collection, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion

from ._around import around_replays
from ._cached import CachedRun
from ._history import Activation
from ._sdk import RunStart, WorkerParts

if TYPE_CHECKING:
    from collections.abc import Generator

    from ._run import Run

__all__ = ["History", "histories_of_runs", "replay_elsewhere"]

REPLAYS = 2
"""How often each history is replayed, its tasks hashed in another order each time."""


@dataclasses.dataclass(frozen=True)
class History:
    """What one run of a workflow was told and answered, as it can be pickled.

    Attributes:
        start: What it started with, without its class.
        activations: Each activation's request, its answer, and its workflow task.
    """

    start: RunStart
    activations: Sequence[tuple[bytes, bytes, int]]


def histories_of_runs(runs: Sequence[Run]) -> list[History]:
    """Return the histories of runs."""
    without_class: Any = None
    return [
        History(
            run.start.but(definition=without_class),
            [
                (done.request.SerializeToString(), done.completion.SerializeToString(), done.task)
                for done in run.cached.activations
            ],
        )
        for run in runs
        if run.cached.activations
    ]


def replay_elsewhere(parts: WorkerParts, history: History, varying: Collection[str]) -> str | None:
    """Replay a history, its tasks hashed in several orders; return where commands differ, or None."""
    definition = parts.workflow(history.start.workflow_type)
    if definition is None:
        return None
    cached = CachedRun(parts, history.start.but(definition=definition))
    for request, completion, task in history.activations:
        done = Activation(WorkflowActivation(), WorkflowActivationCompletion(), task)
        done.request.ParseFromString(request)
        done.completion.ParseFromString(completion)
        cached.activations.append(done)
    with around_replays(parts), _hashed_at_random():
        for _ in range(REPLAYS):
            difference = cached.check_replay(varying)
            if difference:
                return difference
    return None


class _Task(asyncio.Task[Any]):
    """A task whose place in a set is another each time: a task's hash is its address, which a process repeats."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._hash = int.from_bytes(os.urandom(7), "big")
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._hash


@contextmanager
def _hashed_at_random() -> Generator[None, None, None]:
    module: Any = asyncio
    real, module.Task = module.Task, _Task
    try:
        yield
    finally:
        module.Task = real
