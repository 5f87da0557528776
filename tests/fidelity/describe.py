"""Errors as plain data: what a user can see of them, the same here and there."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Any

# Left out: ids of runs and events, and the name of the worker; stack traces.
_SEEN = (
    "type",
    "non_retryable",
    "details",
    "category",
    "next_retry_delay",
    "retry_state",
    "last_heartbeat_details",
    "activity_id",
    "activity_type",
    "workflow_id",
    "workflow_type",
    "namespace",
)


def chain(error: BaseException | None) -> list[dict[str, Any]]:
    """The error and its causes, the outermost first."""
    found: list[dict[str, Any]] = []
    while error is not None:
        seen = {name: plain(getattr(error, name)) for name in _SEEN if hasattr(error, name)}
        found.append({"class": type(error).__name__, "message": getattr(error, "message", str(error)), **seen})
        error = getattr(error, "cause", None) or error.__cause__
    return found


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if value is None or isinstance(value, (str, int, float, bool, dict)):
        return value
    return repr(value)
