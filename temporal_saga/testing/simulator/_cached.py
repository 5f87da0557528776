"""A run in a worker's cache: the workflow's instance, what it was told and answered, and replays of that."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.bridge.proto.workflow_activation import WorkflowActivation, WorkflowActivationJob
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion

from ._history import Activation, as_replayed, comparable, readable, without_values
from ._sdk import Instance, RunStart, WorkerParts

# The server's defaults: limit.historyCount.suggestContinueAsNew, limit.historySize.suggestContinueAsNew.
_SUGGESTED_EVENTS, _SUGGESTED_BYTES = 4096, 4 * 1024 * 1024


class CachedRun:
    """Feeds activations to a workflow's instance, and can make another instance that has come as far."""

    def __init__(self, parts: WorkerParts, start: RunStart) -> None:
        self._parts = parts
        self._start = start
        self._flags: set[int] = set()
        self.activations: list[Activation] = []
        self.instance: Instance = self._new_instance()

    def _new_instance(self) -> Instance:
        return Instance(self._parts, self._start)

    def activate(
        self, jobs: Iterable[WorkflowActivationJob], *, task: int, events: int, size: int, time: Timestamp
    ) -> WorkflowActivationCompletion:
        """Deliver an activation; return what the workflow answers, as it travels."""
        request = WorkflowActivation(
            run_id=self._start.run_id,
            history_length=events,
            history_size_bytes=size,
            continue_as_new_suggested=events >= _SUGGESTED_EVENTS or size >= _SUGGESTED_BYTES,
            jobs=jobs,
            available_internal_flags=sorted(self._flags),
            timestamp=time,
        )
        completion, travels = self.instance.activate(request)
        self.activations.append(Activation(request, completion, task))
        if not completion.HasField("failed"):
            self._flags.update(completion.successful.used_internal_flags)
        return travels

    def forget(self, task: int) -> None:
        """Take out a workflow task that failed: it is not in history."""
        while self.activations and self.activations[-1].task == task:
            self.activations.pop()

    def restart(self) -> str | None:
        """Carry on on a fresh instance, brought up to here by a replay; return where its commands differ, or None."""
        self.instance.evict()
        self.instance = self._new_instance()
        return self._replay_on(self.instance)

    def check_replay(self, varying: Collection[str] = ()) -> str | None:
        """Replay the whole history on a fresh instance; return where its commands differ, or None.

        Values that vary by design do not count.
        """
        instance = self._new_instance()
        try:
            return self._replay_on(instance, varying)
        finally:
            instance.evict()

    def _replay_on(self, instance: Instance, varying: Collection[str] = ()) -> str | None:
        found = None
        for number, (done, request, expected) in enumerate(as_replayed(self.activations), 1):
            completion, _ = instance.activate(request, decoded=True)
            # Behind a difference too: a worker that goes on has to have come as far.
            if not found and without_values(comparable(completion), varying) != without_values(expected, varying):
                before = self.activations[: self.activations.index(done)]
                replayed = Activation(done.request, completion, done.task)
                found = (
                    f"activation {number} of {self._start.workflow_id!r} gave "
                    f"{readable([*before, done], self._parts.converter)[-1]}, and replayed "
                    f"{readable([*before, replayed], self._parts.converter)[-1]}"
                )
        return found
