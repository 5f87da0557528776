"""The server's retry policy, and the failures of its timeouts (server 1.31, `retrypolicy` and `failure`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio import common
from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.failure.v1 import Failure

TIMEOUT_NAMES = {
    TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE: "StartToClose",
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START: "ScheduleToStart",
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE: "ScheduleToClose",
    TimeoutType.TIMEOUT_TYPE_HEARTBEAT: "Heartbeat",
}


def seconds(duration: Duration) -> float:
    """Return a protobuf duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def timeout_in(command: Any, name: str) -> float:
    """Return the timeout of that name in seconds; 0 if the command does not give it."""
    return seconds(getattr(command, name)) if command.HasField(name) else 0.0


def effective(policy: RetryPolicy) -> common.RetryPolicy:
    """Return the policy, with the server's defaults where it says nothing."""
    return _effective(policy.SerializeToString(deterministic=True))


@lru_cache
def _effective(serialized: bytes) -> common.RetryPolicy:
    policy = RetryPolicy.FromString(serialized)
    first = policy.initial_interval.ToTimedelta() or timedelta(seconds=1)
    return common.RetryPolicy(
        initial_interval=first,
        backoff_coefficient=policy.backoff_coefficient or 2.0,
        maximum_interval=policy.maximum_interval.ToTimedelta() or 100 * first,
        maximum_attempts=policy.maximum_attempts,
        non_retryable_error_types=list(policy.non_retryable_error_types) or None,
    )


def retry_delay(
    policy: RetryPolicy, attempt: int, failure: Failure, left: float | None, *, of_workflow: bool = False
) -> tuple[float, RetryState.ValueType | None]:
    """Return the wait in seconds before the next attempt, and why there is none.

    Args:
        policy: As scheduled.
        attempt: The attempt that has failed, from 1.
        failure: How.
        left: The seconds until the schedule-to-close (or execution) timeout; None without one.
        of_workflow: Whether this is a workflow's policy: its maximum interval bounds `next_retry_delay` too.
    """
    if not is_retryable(failure, policy.non_retryable_error_types):
        timeout = failure.timeout_failure_info.timeout_type if failure.HasField("timeout_failure_info") else 0
        if timeout in (TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START, TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE):
            return 0.0, RetryState.RETRY_STATE_TIMEOUT
        return 0.0, RetryState.RETRY_STATE_NON_RETRYABLE_FAILURE
    if policy.maximum_attempts and attempt >= policy.maximum_attempts:
        return 0.0, RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    first = seconds(policy.initial_interval) or 1.0
    cap = seconds(policy.maximum_interval) or 100 * first
    try:
        delay = min(first * (policy.backoff_coefficient or 2.0) ** (attempt - 1), cap)
    except OverflowError:
        delay = cap
    if failure.application_failure_info.HasField("next_retry_delay"):
        delay = seconds(failure.application_failure_info.next_retry_delay)
        if of_workflow:
            delay = min(delay, cap)
    if left is not None and delay > left:
        return 0.0, RetryState.RETRY_STATE_TIMEOUT
    return float(delay), None


def is_retryable(failure: Failure, types: Sequence[str]) -> bool:
    """Tell whether the server tries again after this failure."""
    kind = failure.WhichOneof("failure_info")
    if kind in ("terminated_failure_info", "canceled_failure_info"):
        return False
    if kind == "timeout_failure_info":
        timeout = failure.timeout_failure_info.timeout_type
        if timeout not in (TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE, TimeoutType.TIMEOUT_TYPE_HEARTBEAT):
            return False
        return f"TemporalTimeout:{TIMEOUT_NAMES[timeout]}" not in types
    if kind == "server_failure_info":
        return not failure.server_failure_info.non_retryable
    if kind == "application_failure_info":
        info = failure.application_failure_info
        return not info.non_retryable and info.type not in types
    return True


def timeout_failure(timeout: TimeoutType.ValueType) -> Failure:
    """Return how an activity's timeout travels."""
    message = f"activity {TIMEOUT_NAMES[timeout]} timeout"
    if timeout == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE:
        message = "Not enough time to schedule next retry before activity ScheduleToClose timeout, giving up retrying"
    failure = Failure(message=message, source="Server")
    failure.timeout_failure_info.timeout_type = timeout
    return failure


def reason(failure: Failure) -> str:
    """Return what people see of a failure: its type, if it has one, and its message."""
    return f"{failure.application_failure_info.type}: {failure.message}".removeprefix(": ")
