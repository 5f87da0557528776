"""What reaches a run from outside: signals, updates, its cancel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.bridge.proto.workflow_activation import WorkflowActivationJob

from ._errors import SimulationError
from ._faults import ActivationFault
from ._jobs import Job, Update
from ._run_state import RunState
from ._sagas import CANCEL_SCOPE


class Messages:
    """Makes the jobs of a run's messages, and takes its answers."""

    def __init__(self, run: RunState) -> None:
        self.updates: dict[str, Update] = {}
        self.cancel_requested: bool = False
        self._run = run

    def cancel(self, reason: str, *, kind: str = "cancel") -> Job | None:
        """Return the job of the workflow's cancellation, or None if that was requested before."""
        if self.cancel_requested:
            return None
        self.cancel_requested = True
        proto = WorkflowActivationJob()
        proto.cancel_workflow.reason = reason
        return Job(proto, kind=kind, label="workflow")

    def signal(
        self,
        name: str,
        args: Sequence[Payload],
        headers: Mapping[str, Payload] | None = None,
        *,
        kind: str = "signal",
        label: str = "",
    ) -> Job:
        """Return the job of a signal."""
        proto = WorkflowActivationJob()
        proto.signal_workflow.signal_name = name
        proto.signal_workflow.originating_event_id = self._run.events + 1
        proto.signal_workflow.input.extend(args)
        for key, value in (headers or {}).items():
            proto.signal_workflow.headers[key].CopyFrom(value)
        return Job(proto, kind=kind, label=label or name)

    def free_update_id(self, wanted: str) -> str:
        """Return an id that no update of the run has: the wanted one, or that one with a number."""
        free, number = wanted, 1
        while free in self.updates:
            number += 1
            free = f"{wanted}-{number}"
        return free

    def update(self, update_id: str, name: str, args: Sequence[Payload]) -> Job:
        """Return the job of an update; `updates` tells what becomes of the update."""
        loop = self._run.world.loop
        state = self.updates[update_id] = Update(loop.create_future(), loop.create_future())
        for future in (state.accepted, state.completed):
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        proto = WorkflowActivationJob()
        proto.do_update.id = proto.do_update.protocol_instance_id = update_id
        proto.do_update.name = name
        proto.do_update.input.extend(args)
        proto.do_update.run_validator = True
        return Job(proto, events=0, kind="update", label=name, dropped=lambda: _drop(state))

    def of_faults(self, faults: Sequence[ActivationFault]) -> list[Job]:
        """Return the jobs of those faults that are messages."""
        jobs: list[Job] = []
        for fault in faults:
            if fault.kind in ("cancel", "cancel_with"):
                job = self.cancel("", kind=fault.kind)
                if job is not None:
                    jobs.append(job)
            elif fault.kind == "cancel_scope":
                jobs.append(self.signal(CANCEL_SCOPE, (), kind="cancel_scope", label="scope"))
            elif fault.kind == "signal":
                jobs.append(self.signal(fault.name, self._encode(fault.args)))
            elif fault.kind == "update":
                update_id = self.free_update_id(f"fault-{fault.at}-{fault.name}")
                jobs.append(self.update(update_id, fault.name, self._encode(fault.args)))
        return jobs

    def _encode(self, args: Sequence[Any]) -> Sequence[Payload]:
        return self._run.world.parts.converter.of_workflow(self._run.start.workflow_id).encode(args)

    def answer(self, command: Any) -> None:
        """Take the command that accepts, rejects or completes an update."""
        run, state = self._run, self.updates[command.protocol_instance_id]
        if command.HasField("accepted"):
            run.events += 1
            state.accepted.set_result(None)
            return
        is_rejected = command.HasField("rejected")
        run.record("update_ended", command.protocol_instance_id, "failed" if is_rejected else "completed")
        if state.accepted.done():
            run.events += 1
        else:
            state.accepted.set_result(None)
        state.completed.set_result(command.rejected if is_rejected else command.completed)

    def close(self) -> None:
        """The run has closed: its updates end."""
        for state in self.updates.values():
            _drop(state)


def _drop(state: Update) -> None:
    for future in (state.accepted, state.completed):
        if not future.done():
            future.set_exception(SimulationError("the workflow has closed before the update ended"))
