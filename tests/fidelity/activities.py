"""What the workflows call; each attempt that runs is written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from temporalio import activity
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from temporal_saga import current_step

from .describe import plain


@dataclass(frozen=True)
class Ran:
    """An attempt whose function was called; the time is since the activity was first scheduled."""

    workflow_id: str
    activity_id: str
    attempt: int
    time: float
    heartbeat_details: Sequence[Any]


LOG: list[Ran] = []


def note() -> activity.Info:
    info = activity.info()
    assert info.workflow_id is not None
    time = (info.started_time - info.scheduled_time).total_seconds()
    LOG.append(Ran(info.workflow_id, info.activity_id, info.attempt, time, list(info.heartbeat_details)))
    return info


@activity.defn
async def echo(value: Any) -> Any:
    note()
    return value


@activity.defn
def add(a: int, b: int) -> int:
    note()
    return a + b


class Desk:
    def __init__(self, name: str) -> None:
        self.name = name

    @activity.defn
    async def greet(self, whom: str) -> str:
        note()
        await asyncio.sleep(0.01)
        return f"{self.name} greets {whom}"

    @activity.defn(name="desk_of")
    def of(self, whom: str) -> str:
        note()
        return f"{self.name} is the desk of {whom}"


@activity.defn(dynamic=True)
async def anything(args: Sequence[RawValue]) -> str:
    info = note()
    return f"{info.activity_type}: {[activity.payload_converter().from_payload(arg.payload, int) for arg in args]}"


@activity.defn
async def look() -> dict[str, Any]:
    """What `activity.info()` tells, but for times, tokens and the ids of runs."""
    info = note()
    assert info.retry_policy is not None
    return {
        "id": info.activity_id,
        "type": info.activity_type,
        "attempt": info.attempt,
        "workflow": [info.workflow_id, info.workflow_type],
        "namespace": [info.namespace, info.workflow_namespace],
        "queue": info.task_queue,
        "local": info.is_local,
        "in a workflow": info.in_workflow,
        "timeouts": [
            plain(each)
            for each in (info.schedule_to_close_timeout, info.start_to_close_timeout, info.heartbeat_timeout)
        ],
        "retries": [
            plain(info.retry_policy.initial_interval),
            info.retry_policy.backoff_coefficient,
            plain(info.retry_policy.maximum_interval),
            info.retry_policy.maximum_attempts,
            list(info.retry_policy.non_retryable_error_types or ()),
        ],
        "priority": [info.priority.priority_key, info.priority.fairness_key, info.priority.fairness_weight],
        "times in order": info.scheduled_time <= info.current_attempt_scheduled_time <= info.started_time,
        "heartbeats": list(info.heartbeat_details),
    }


@activity.defn
async def step_facts(name: str) -> list[Any]:
    note()
    step = current_step()
    return [name, step.name, step.phase, step.key, step.forward_key, step.attempt, step.is_compensation]


@activity.defn
def undo(value: Any) -> None:
    note()


ERRORS: dict[str, Callable[[], BaseException]] = {
    "untyped": lambda: RuntimeError("it broke"),
    "typed": lambda: ApplicationError("no luck", {"left": 3}, [1], type="NoLuck"),
    "non_retryable": lambda: ApplicationError("never", type="Never", non_retryable=True),
    "later": lambda: ApplicationError("later", type="Later", next_retry_delay=timedelta(seconds=7)),
    "benign": lambda: ApplicationError("benign", category=ApplicationErrorCategory.BENIGN),
    "no failure": lambda: ApplicationError("busy", next_retry_delay=cast(Any, 3)),
    # Without a text: on Python 3.10 it is lost where one task awaits another, as the simulator does.
    "cancelled": lambda: asyncio.CancelledError(),
}


@activity.defn
async def fail(how: str, times: int) -> str:
    """Fail so many times."""
    info = note()
    if info.attempt > times:
        return f"attempt {info.attempt}"
    if how == "caused":
        try:
            raise KeyError("deep")
        except KeyError as error:
            raise ValueError("shallow") from error
    raised = ERRORS[how]()
    raise raised


@activity.defn
async def in_turn(turns: list[str]) -> list[Any]:
    """Do in each attempt what its turn says: fail in a way, or `hang`; after the last turn return."""
    info = note()
    if info.attempt > len(turns):
        return [info.attempt, list(info.heartbeat_details)]
    turn = turns[info.attempt - 1]
    if turn == "hang":
        await asyncio.sleep(30)
    raised = ERRORS[turn]()
    raise raised


@activity.defn
def fail_in_a_thread(how: str, times: int) -> str:
    info = note()
    if info.attempt > times:
        return f"attempt {info.attempt}"
    raised = ERRORS[how]()
    raise raised


@activity.defn
async def no_json(_: str) -> Any:
    note()
    return object()


@activity.defn
async def hang(attempts: int) -> str:
    """Take longer than any timeout, for so many attempts."""
    info = note()
    if info.attempt <= attempts:
        await asyncio.sleep(30)
    return f"attempt {info.attempt}"


@activity.defn
async def fail_then_hang() -> None:
    if note().attempt > 1:
        await asyncio.sleep(30)
    raise ApplicationError("at first", type="AtFirst")


@activity.defn
async def beat_and_hang(attempts: int) -> list[Any]:
    """Heartbeat with some progress, then say nothing more."""
    info = note()
    activity.heartbeat("page", info.attempt)
    if info.attempt <= attempts:
        await asyncio.sleep(30)
    return list(info.heartbeat_details)


@activity.defn
async def beat_and_fail() -> list[Any]:
    info = note()
    if info.attempt == 3:
        return list(info.heartbeat_details)
    if info.attempt == 1:
        activity.heartbeat({"done": 10}, "ten")
    raise ApplicationError("after a heartbeat", type="Again")


@activity.defn
async def beat_often_and_fail() -> list[Any]:
    """Heartbeat more often than a worker sends, and fail: the last one comes with the failure."""
    info = note()
    if info.attempt == 3:
        return list(info.heartbeat_details)
    for number in range(5):
        activity.heartbeat(info.attempt, number)
    raise ApplicationError("after many heartbeats", type="Again")


@activity.defn
async def beat_twice_and_hang() -> list[Any]:
    """Heartbeat twice at once: the worker sends the second one later, without being asked."""
    info = note()
    if info.attempt == 1:
        activity.heartbeat("one")
        activity.heartbeat("two")
        await asyncio.sleep(30)
    return list(info.heartbeat_details)


@activity.defn
async def keep_beating(beats: int) -> str:
    """Take longer than the heartbeat timeout, with heartbeats all along."""
    note()
    for number in range(beats):
        activity.heartbeat(number)
        await asyncio.sleep(0.25)
    return "alive"


@activity.defn
async def until_cancelled(how: str) -> Any:
    """Heartbeat until a cancel comes, and then do what is asked."""
    note()
    try:
        while True:
            activity.heartbeat("here")
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        details = activity.cancellation_details()
        if how == "raise":
            raise
        if how == "fail":
            raise ApplicationError("no time to stop", type="Stubborn") from None
        assert details is not None
        return [details.cancel_requested, details.timed_out, details.worker_shutdown, details.not_found]


ACTIVITIES: list[Callable[..., Any]] = [
    echo,
    add,
    Desk("Ada").greet,
    Desk("Bob").of,
    anything,
    look,
    step_facts,
    undo,
    fail,
    in_turn,
    fail_in_a_thread,
    no_json,
    hang,
    fail_then_hang,
    beat_and_hang,
    beat_and_fail,
    beat_often_and_fail,
    beat_twice_and_hang,
    keep_beating,
    until_cancelled,
]
