"""What a client is told of a run that has closed."""

from __future__ import annotations

from typing import Any

from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError, TerminatedError, TimeoutError, TimeoutType

from ._converter import Converter
from ._run import Run


def outcome_of(run: Run, converter: Converter, result_type: type | None) -> Any:
    """Return what a closed run returned.

    Raises:
        WorkflowFailureError: If it did not return.
    """
    decoder, status = converter.of_workflow(run.start.workflow_id), run.state.status
    if status == "completed":
        assert run.result is not None
        return decoder.decode([run.result], [result_type] if result_type else None)[0]
    cause: BaseException
    if status == "failed":
        assert run.failure is not None
        cause = decoder.to_exception(run.failure)
    elif status == "cancelled":
        cause = CancelledError("Workflow cancelled")
    elif status == "terminated":
        cause = TerminatedError(run.close_details or "terminated by user via frontend")
    else:
        cause = TimeoutError("Workflow timed out", type=TimeoutType.START_TO_CLOSE, last_heartbeat_details=[])
    raise WorkflowFailureError(cause=cause)
