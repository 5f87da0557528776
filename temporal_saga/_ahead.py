"""A run that is ahead of its history, because a query came before a workflow task.

To answer a query, a worker applies all events that the history has, also those that no workflow task has handled yet
(`queryDirectlyThroughMatching` of the server; the SDK's core 1.35). The run then stays in the cache, ahead of its
history. If a signal, an update, a timer or a cancel comes with the workflow task that handles those events, the run has
seen the events first, and the other after them. A replay has both in one activation, where the SDK runs signals and
updates first. So the history would not replay, and the run would be stuck.

`SagaPlugin` fails the first workflow task of such a run. The worker then drops the run. The server tries the task again
at once, and the run is built anew from its history, in the right order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner


def watching(runner: WorkflowRunner) -> WorkflowRunner:
    """Return a copy of a workflow runner that drops each run that is ahead of its history."""
    if isinstance(runner, _Watching):
        raise ValueError("SagaPlugin was given twice: give it once, to the client, which hands it to its workers")
    kind = type(runner)
    watching = copy.copy(runner)
    # The runner keeps its type, which other plugins ask for. It may be frozen.
    object.__setattr__(watching, "__class__", type(kind.__name__, (_Watching, kind), {"__module__": kind.__module__}))
    return watching


class _Watching(WorkflowRunner):
    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        instance = super().create_instance(det)  # type: ignore[safe-super]
        cast(Any, instance).activate = _Activate(instance.activate)
        return instance


class _Activate:
    """The activations of one run.

    The time of a run is the start of its newest workflow task. So if the history has grown and the time stands still,
    no workflow task has brought the new events.
    """

    def __init__(self, activate: Callable[[Any], Any]) -> None:
        self._activate = activate
        self._length: int = 0  # of the history
        self._time: int | None = None
        self._stands_still: bool = False  # True iff no workflow task brought the newest events
        self._is_ahead: bool = False

    def __call__(self, activation: Any) -> Any:
        kinds: set[str] = {job.WhichOneof("variant") for job in activation.jobs}
        if kinds == {"query_workflow"}:
            # A query that came without a workflow task has this id.
            alone: bool = any(job.query_workflow.query_id == "legacy_query" for job in activation.jobs)
            self._is_ahead |= alone and self._stands_still
        elif kinds != {"remove_from_cache"} and activation.history_length != self._length:
            time: int = activation.timestamp.ToNanoseconds()
            self._stands_still = time == self._time
            if self._is_ahead and not self._stands_still:
                raise RuntimeError(
                    "a query has taken this run ahead of its history: the workflow task fails, and its next attempt "
                    "replays the run. Nothing is lost"
                )
            self._length, self._time = activation.history_length, time
        return self._activate(activation)
