"""The outcome of a step, and the meaning of an error to a saga."""

from __future__ import annotations

import asyncio
import builtins
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    TimeoutError,
    TimeoutType,
)
from typing_extensions import TypeVar

from ._proof import mark_in, says_no_effect
from ._waiting import raise_if_evicted


class Outcome(str, Enum):
    """What is known about a step's effect."""

    APPLIED = "APPLIED"
    """It took effect: the step returned."""
    NOT_APPLIED = "NOT_APPLIED"
    """It provably had no effect."""
    UNKNOWN = "UNKNOWN"
    """It may have taken effect: a timeout, a lost worker, a cancel, an error that proves nothing."""


def outcome_of(error: BaseException) -> Outcome:
    """Return what a step's error proves about its effect; UNKNOWN if it proves nothing.

    Two things prove that the step had no effect: our mark as the last detail of the activity's error; or a
    schedule-to-start timeout without a cause, since then no attempt was ever started. `started_event_id == 0` of an
    `ActivityError` is not a proof, since an attempt in backoff has it too (measured on server 1.32). A child workflow's
    error is not a proof: the child may have done more than its last activity.
    """
    if isinstance(error, ActivityError):
        cause = error.cause
        never_started = (
            isinstance(cause, TimeoutError) and cause.type == TimeoutType.SCHEDULE_TO_START and cause.cause is None
        )
        if never_started or says_no_effect(cause):
            return Outcome.NOT_APPLIED
    return Outcome.UNKNOWN


def is_refusal(error: BaseException | None) -> bool:
    """Tell whether an error is a refusal or a cancel. A person cannot help such a step, so the step does not park."""
    while error is not None:
        mark = mark_in(error.details) if isinstance(error, ApplicationError) else None
        if isinstance(error, (CancelledError, asyncio.CancelledError)):
            return True
        if mark is not None and mark.get("kind") in ("DECLINED", "REJECTED", "FENCED"):
            return True
        error = error.__cause__
    return False


InputT = TypeVar("InputT", covariant=True, default=Any)
ResultT = TypeVar("ResultT", covariant=True, default=Any)


@dataclass(frozen=True)
class StepOutcome(Generic[InputT, ResultT]):
    """The argument of a `compensation_from=` function, which is called once, when the outcome of its step is known.

    Attributes:
        state: APPLIED or UNKNOWN; the function is not called for NOT_APPLIED.
        result: What the step returned; None unless APPLIED. After UNKNOWN the undo finds the effect by `key`.
        input: The step's input: its argument, a list of several arguments, None without arguments.
        key: The step's key.
    """

    state: Outcome
    result: ResultT | None
    input: InputT
    key: str


_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())  # Python 3.11


def _leaves(error: Any) -> list[BaseException]:
    if isinstance(error, _GROUP):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


def bug_in(error: BaseException) -> Exception | None:
    """Return the first leaf that is a bug: an Exception that is not a failure to Temporal. None if there is none."""
    for leaf in _leaves(error):
        if isinstance(leaf, Exception) and not workflow.is_failure_exception(leaf):
            return leaf
    return None


def saga_failure(error: BaseException) -> BaseException | None:
    """Return the exception that makes a saga unwind; None if `error` does not make it unwind.

    An exception that fails a workflow makes the saga unwind, and so does a cancellation. A group makes the saga unwind
    if each of its leaves does; then its first leaf that is not a cancellation goes on. Anything else is a bug, or the
    SDK's own control flow.
    """
    leaves = _leaves(error)
    cancels = [leaf for leaf in leaves if isinstance(leaf, asyncio.CancelledError)]
    failures = [leaf for leaf in leaves if not isinstance(leaf, asyncio.CancelledError)]
    # A BaseException is control flow: the SDK's own, or a GeneratorExit outside of the workflow's event loop.
    if not all(isinstance(leaf, Exception) and workflow.is_failure_exception(leaf) for leaf in failures):
        return None
    return [*failures, *cancels][0]


def failure_or_raise(error: BaseException) -> BaseException:
    """Return the exception that makes a saga unwind. Raise what does not: a bug, control flow, an eviction."""
    failure = saga_failure(error)
    if failure is None:
        raise error
    if isinstance(failure, asyncio.CancelledError):
        raise_if_evicted()
    return failure


def type_name(error: BaseException | None) -> str:
    """Return the name of an error's type, the only part of an error that may appear in a log."""
    if isinstance(error, (ActivityError, ChildWorkflowError)) and error.cause is not None:
        return type_name(error.cause)
    if isinstance(error, ApplicationError) and error.type:
        return error.type
    return type(error).__name__
