"""The errors of the library, and what each says about a step.

Every error that may cross a process is an `ApplicationError`: the SDK's failure converter sends only its type and
details. The type is the bare class name, and code on the other side matches on that.

    ApplicationError
    ├── CompensationError       a compensation failed for good
    ├── SagaClosed              a step or a registration after the scope has ended
    ├── SagaDeadlineExceeded    the `deadline=` of a saga passed
    ├── SagaStateTooLarge       `detach()` would return more than the server takes
    ├── DuplicateStep           a handler called the same step with the same `key=` twice
    │   raise in an activity; it is retried:
    ├── NotSent                 the request never left
    ├── Throttled               refused for now
    ├── Conflict                rolled back by a conflict
    ├── InProgress              another attempt is still running
    ├── Ambiguous               it may have taken effect
    │   raise in an activity; it is not retried:
    ├── Declined                a business refusal
    ├── Rejected                the request cannot succeed
    ├── AuthenticationError     not allowed: credentials, permissions
    ├── KeyMisuse               the key was used with another payload
    └── Fenced                  the step was undone before this attempt came

Misuse that only the programmer can cause is a plain `RuntimeError`, `TypeError` or `ValueError`. It fails the workflow
task, which is retried until a fixed deployment carries on. So nothing is lost, and a bug does not refund anything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from ._options import check_duration
from ._proof import Effect, earlier_attempts_are_definite, failure_mark

if TYPE_CHECKING:
    from ._report import SagaReport

__all__ = [
    "Ambiguous",
    "AuthenticationError",
    "CompensationError",
    "Conflict",
    "Declined",
    "DuplicateStep",
    "FailureKind",
    "Fenced",
    "InProgress",
    "KeyMisuse",
    "NotSent",
    "Rejected",
    "SagaClosed",
    "SagaDeadlineExceeded",
    "SagaStateTooLarge",
    "Throttled",
]


class FailureKind(str, Enum):
    """The meaning of a failed attempt of an activity: whether to retry, and what it says about the effect."""

    NOT_SENT = "NOT_SENT"
    """The request never left: refused connection, name not found."""
    THROTTLED = "THROTTLED"
    """Refused for now: 429, a quota."""
    CONFLICT = "CONFLICT"
    """Rolled back by a conflict: deadlock, serialization failure."""
    IN_PROGRESS = "IN_PROGRESS"
    """A request with the same key is still running: another attempt may yet take effect."""
    AMBIGUOUS = "AMBIGUOUS"
    """The request was sent, and no answer says whether it took effect: a read timeout, a 500."""
    REJECTED = "REJECTED"
    """Refused, and would be again: bad input."""
    DECLINED = "DECLINED"
    """Refused for a business reason: a declined card."""
    AUTH = "AUTH"
    """Not allowed: credentials, permissions."""
    KEY_MISUSE = "KEY_MISUSE"
    """The idempotency key was used with another payload, which may have taken effect."""
    FENCED = "FENCED"
    """The step was undone before this attempt came, so it was refused."""
    CANCELLED = "CANCELLED"
    """Cancelled while it ran."""
    BUG = "BUG"
    """An exception that no rule knows."""
    INFRA = "INFRA"
    """Temporal's own side."""

    @property
    def retryable(self) -> bool:
        """Whether a retry can help."""
        return self in _RETRYABLE

    @property
    def effect(self) -> Literal["none", "unknown"]:
        """What a failure of this kind says about its own attempt's effect. It says nothing about earlier attempts."""
        return "none" if self in _WITHOUT_EFFECT else "unknown"


_RETRYABLE = frozenset(
    {
        FailureKind.NOT_SENT,
        FailureKind.THROTTLED,
        FailureKind.CONFLICT,
        FailureKind.IN_PROGRESS,
        FailureKind.AMBIGUOUS,
        FailureKind.BUG,
    }
)
_WITHOUT_EFFECT = frozenset(
    {
        FailureKind.NOT_SENT,
        FailureKind.THROTTLED,
        FailureKind.CONFLICT,
        FailureKind.REJECTED,
        FailureKind.DECLINED,
        FailureKind.AUTH,
        FailureKind.FENCED,
    }
)


class _SagaError(ApplicationError):
    def __init__(
        self,
        message: str,
        *details: Any,
        non_retryable: bool = True,
        next_retry_delay: timedelta | None = None,
        category: ApplicationErrorCategory = ApplicationErrorCategory.UNSPECIFIED,
    ) -> None:
        super().__init__(
            message,
            *details,
            type=type(self).__name__,
            non_retryable=non_retryable,
            next_retry_delay=next_retry_delay,
            category=category,
        )

    # A process pool pickles the error of an activity. The default would call `__init__` with the one string in `args`
    # ("type: message"), and lose the details.
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return type(self).__new__, (type(self), *self.args), self.__dict__


class FenceMisuse(_SagaError, RuntimeError):
    """The effect of `fence.once` ended its transaction. This proves nothing, and is not retried.

    If the record of a step was committed, the step is undone. A compensation has failed, and a person has to look.
    """


class CompensationError(_SagaError):
    """A compensation failed for good: an effect stands, and a person has to look.

    The cause is the error that made the saga unwind. The only detail is the `SagaReport` (a dict for a client).
    """

    def __init__(self, message: str, report: SagaReport) -> None:
        super().__init__(message, report)


class SagaClosed(_SagaError):
    """A step or a registration came after its scope had ended. It had no effect."""


class SagaDeadlineExceeded(_SagaError):
    """The `deadline=` of a saga passed. The saga has been unwound."""


class SagaStateTooLarge(_SagaError):
    """`detach()` would return more than the server takes. The saga stays as it is.

    If nobody catches this error, the saga unwinds.
    """


class DuplicateStep(_SagaError):
    """A handler called the same step with the same `key=` twice. The second call had no effect.

    In the main method this is misuse and fails the workflow task, since only the programmer can have caused it there.
    """


class ActivityFailure(_SagaError):
    """The base of the errors to raise in an activity. Raise one of its subclasses."""

    kind: ClassVar[FailureKind]
    """The meaning of the failure. The mark carries the kind."""
    is_doubtful: bool = False
    """Whether another request of the same call may have had an effect, so that the kind is not a proof. Internal."""
    _benign: ClassVar[bool] = False
    _default: ClassVar[str]

    def __init__(self, message: str | None = None, *details: Any, retry_after: timedelta | None = None) -> None:
        if retry_after is not None:
            check_duration("retry_after", retry_after)
        super().__init__(
            message or self._default,
            *details,
            failure_mark(self.kind.value, self.kind.effect if _earlier_attempts_are_definite() else "unknown"),
            non_retryable=not self.kind.retryable,
            next_retry_delay=retry_after,
            category=ApplicationErrorCategory.BENIGN if self._benign else ApplicationErrorCategory.UNSPECIFIED,
        )


class _Final(ActivityFailure):
    def __init__(self, message: str | None = None, *details: Any) -> None:
        super().__init__(message, *details)


class NotSent(ActivityFailure):
    """Raise in an activity: the request never left, so nothing took effect.

    Retried. A `Declined` in the next attempt is proof only with `classify_errors` or `SagaPlugin(classify=...)`, which
    tell the next attempt that this one had no effect.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
        retry_after: How long to wait before the next attempt, in place of the retry policy's interval.
    """

    kind = FailureKind.NOT_SENT
    _default = "not sent"


class Throttled(ActivityFailure):
    """Raise in an activity: the request is refused for now, and nothing took effect (429, a quota).

    Retried. Category BENIGN: the SDK logs it at DEBUG and does not count it as a failure. It is as much a proof as
    `NotSent`.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
        retry_after: How long to wait before the next attempt, in place of the retry policy's interval.
    """

    kind = FailureKind.THROTTLED
    _benign = True
    _default = "throttled"


class Conflict(ActivityFailure):
    """Raise in an activity: a conflict rolled the request back, and nothing took effect (a deadlock).

    Retried. It is as much a proof as `NotSent`.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
        retry_after: How long to wait before the next attempt, in place of the retry policy's interval.
    """

    kind = FailureKind.CONFLICT
    _default = "conflict"


class InProgress(ActivityFailure):
    """Raise in an activity: another attempt is still running, and may yet take effect. Proves nothing.

    Retried. Category BENIGN: the SDK logs it at DEBUG and does not count it as a failure.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
        retry_after: How long to wait before the next attempt, in place of the retry policy's interval.
    """

    kind = FailureKind.IN_PROGRESS
    _benign = True
    _default = "in progress"


class Ambiguous(ActivityFailure):
    """Raise in an activity: the request was sent, and may have taken effect (a read timeout). Proves nothing.

    Retried, which is safe with an idempotency key. `presets.at_most_once` does not retry it.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
        retry_after: How long to wait before the next attempt, in place of the retry policy's interval.
    """

    kind = FailureKind.AMBIGUOUS
    _default = "it may have taken effect"


class Declined(_Final):
    """Raise in an activity: the other side refused for a business reason (a declined card), and nothing took effect.

    Not retried. Category BENIGN: the SDK logs it at DEBUG and does not count it as a failure. On the first attempt it
    proves that the step had no effect, so the step's compensation does not run. On a later attempt it proves nothing
    about the attempts before it, unless `classify_errors` or `SagaPlugin(classify=...)` saw them. With either of these
    it proves nothing once the activity has sent heartbeat details.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
    """

    kind = FailureKind.DECLINED
    _benign = True
    _default = "declined"


class Rejected(_Final):
    """Raise in an activity: the request is refused, now and later, and nothing took effect (bad input, 422).

    Not retried. It is as much a proof as `Declined`.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
    """

    kind = FailureKind.REJECTED
    _default = "rejected"


class AuthenticationError(_Final):
    """Raise in an activity: the credentials or permissions do not allow the request, and nothing took effect.

    Not retried. It is as much a proof as `Declined`.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
    """

    kind = FailureKind.AUTH
    _default = "not authorized"


class KeyMisuse(_Final):
    """Raise in an activity: the idempotency key was used with another payload, which may have taken effect.

    Not retried. Proves nothing.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
    """

    kind = FailureKind.KEY_MISUSE
    _default = "the idempotency key was used with another payload"


class Fenced(_Final):
    """Raise in an activity: the step was undone before this attempt came, and the attempt had no effect.

    Not retried. It is as much a proof as `Declined`.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
    """

    kind = FailureKind.FENCED
    _default = "the step was undone before"


def restated(
    failure: ActivityFailure, *, effect: Effect | None = None, retry_after: timedelta | None, non_retryable: bool
) -> ActivityFailure:
    """Return a failure with another mark and other retry settings. For the library itself.

    Args:
        failure: The error that an activity raised.
        effect: What is known about the effect of all attempts together; None leaves the mark as it is.
        retry_after: The wait before the retry; None means the retry policy's interval.
        non_retryable: Whether the failure is never retried.

    Returns:
        The failure itself if it says all of this already, else a copy: another attempt may have raised the same object.
    """
    mark = failure.details[-1] if effect is None else failure_mark(failure.kind.value, effect)
    if (failure.details[-1], failure.next_retry_delay, failure.non_retryable) == (mark, retry_after, non_retryable):
        return failure
    other = copy.copy(failure)
    ApplicationError.__init__(
        other,
        failure.message,
        *failure.details[:-1],
        mark,
        type=failure.type,
        non_retryable=non_retryable,
        next_retry_delay=retry_after,
        category=failure.category,
    )
    # A copy has none of these, and a `raise` would make the original the context of the copy.
    other.__cause__ = failure.__cause__ if failure.__suppress_context__ else failure.__context__
    return other.with_traceback(failure.__traceback__)


def _earlier_attempts_are_definite() -> bool:
    # A workflow cannot know what its activities did.
    return activity.in_activity() and earlier_attempts_are_definite(activity.info())
