"""Other workflows, as a run sees them: its children, and those that it signals or cancels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import RetryState
from temporalio.api.failure.v1 import Failure

from ._run_state import Status


class Workflow(Protocol):
    """A workflow id in use."""

    on_close: list[Callable[[], None]]
    retry_state: RetryState.ValueType
    """Why the last run was not tried again, in a parent's words."""

    @property
    def first_run_id(self) -> str:
        """The id of its first run."""
        ...

    @property
    def status(self) -> Status:
        """The status of its current run."""
        ...

    @property
    def result(self) -> Payload | None:
        """What its current run returned."""
        ...

    @property
    def failure(self) -> Failure | None:
        """How its current run failed."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        ...

    def signal(self, name: str, args: Sequence[Payload], headers: Mapping[str, Payload]) -> None:
        """Send it a signal."""
        ...

    def request_cancel(self, reason: str) -> None:
        """Request its cancellation."""
        ...

    def terminate(self, reason: str) -> None:
        """End it at once."""
        ...


class Workflows(Protocol):
    """All the workflows of a simulation."""

    def find(self, workflow_id: str) -> Workflow | None:
        """Return the workflow with that id, open or not."""
        ...

    def find_open(self, workflow_id: str, run_id: str = "") -> Workflow | None:
        """Return the open workflow with that id, if its current run has that run id or none is given."""
        ...

    def start(
        self,
        workflow_type: str,
        args: Sequence[Payload],
        *,
        workflow_id: str,
        task_queue: str,
        execution_timeout: timedelta | None = None,
        **fields: Any,
    ) -> Workflow:
        """Start a workflow."""
        ...
