"""What became of a step, and what an error means to a saga."""

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


class Outcome(str, Enum):
    """What is known of a step's effect."""

    APPLIED = "APPLIED"
    """It took effect: the step returned."""
    NOT_APPLIED = "NOT_APPLIED"
    """Proven never to have taken effect."""
    UNKNOWN = "UNKNOWN"
    """It may have: a timeout, a lost worker, a cancel, an error that proves nothing."""


def outcome_of(error: BaseException) -> Outcome:
    """Return what a step's error proves about its effect; UNKNOWN where it proves nothing.

    Proof is our mark as the last detail of what the activity raised, or a schedule-to-start timeout without a cause: no
    attempt was ever started. `ActivityError.started_event_id == 0` is none, since an attempt in backoff has it too
    (measured on server 1.32). A child workflow's error is none: it may have done more than its last activity.
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
    """Tell whether an error is an answer, or a cancel: nothing that a person could make another try of."""
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
    """What a `compensation_from=` function is given, once, when the outcome of its step is known.

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
    """Return the first leaf of an error that is neither a failure nor a cancellation: a bug. Control flow is none."""
    for leaf in _leaves(error):
        if isinstance(leaf, Exception) and not workflow.is_failure_exception(leaf):
            return leaf
    return None


def saga_failure(error: BaseException) -> BaseException | None:
    """Return the exception for which a saga unwinds, or None if `error` is not one.

    What fails a workflow unwinds, and so does cancellation. A group counts as its leaves: it unwinds if each does, and
    what goes on is its first leaf that is no cancellation. Anything else is a bug, or the SDK's own control flow.
    """
    leaves = _leaves(error)
    cancels = [leaf for leaf in leaves if isinstance(leaf, asyncio.CancelledError)]
    failures = [leaf for leaf in leaves if not isinstance(leaf, asyncio.CancelledError)]
    # A BaseException is control flow: the SDK's own, or a GeneratorExit outside of the workflow's event loop.
    if not all(isinstance(leaf, Exception) and workflow.is_failure_exception(leaf) for leaf in failures):
        return None
    return [*failures, *cancels][0]


def type_name(error: BaseException | None) -> str:
    """Return the name of an error's type, the only part of an error that a log may carry."""
    if isinstance(error, (ActivityError, ChildWorkflowError)) and error.cause is not None:
        return type_name(error.cause)
    if isinstance(error, ApplicationError) and error.type:
        return error.type
    return type(error).__name__
