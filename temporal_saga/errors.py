"""The errors of the library, and what each says of a step.

Every error that may cross a process is an `ApplicationError`: the SDK's failure converter sends only its type and
details. The type is the bare class name, and code on the other side matches on that.

    ApplicationError
    ├── CompensationError       a compensation failed for good
    ├── SagaClosed              a step, or a registration, after the scope has ended
    ├── SagaDeadlineExceeded    the `deadline=` of a saga passed
    ├── SagaStateTooLarge       `detach()` would return more than the server takes
    ├── DuplicateStep           a handler called the same step with the same `key=` twice
    │   raise in an activity, which is tried again:
    ├── NotSent                 the request never left
    ├── Throttled               refused: later
    ├── Conflict                rolled back by a conflict
    ├── InProgress              another attempt is still running
    ├── Ambiguous               it may have taken effect
    │   raise in an activity, which is not tried again:
    ├── Declined                the answer is no, as business
    ├── Rejected                the request cannot succeed
    ├── AuthenticationError     not allowed: credentials, permissions
    ├── KeyMisuse               the key was used with another payload
    └── Fenced                  the step was undone before this attempt came

Misuse that only the programmer can cause is a plain `RuntimeError`, `TypeError` or `ValueError`. It fails the workflow
task, which is retried until a fixed deployment carries on: nothing is lost, and a bug refunds nothing.
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
    """What the failure of an activity's attempt means: whether to try again, and what it says of the effect."""

    NOT_SENT = "NOT_SENT"
    """The request never left: refused connection, name not found."""
    THROTTLED = "THROTTLED"
    """Refused, to be tried later: 429, a quota."""
    CONFLICT = "CONFLICT"
    """Rolled back by a conflict: deadlock, serialization failure."""
    IN_PROGRESS = "IN_PROGRESS"
    """A request with the same key is still running: another attempt may yet take effect."""
    AMBIGUOUS = "AMBIGUOUS"
    """The request was sent, and no answer says what became of it: a read timeout, a 500."""
    REJECTED = "REJECTED"
    """Refused, and would be again: bad input."""
    DECLINED = "DECLINED"
    """Refused as business: a declined card."""
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
        """Whether trying again can help."""
        return self in _RETRYABLE

    @property
    def effect(self) -> Literal["none", "unknown"]:
        """What a failure of this kind says of its own attempt's effect; it says nothing of earlier attempts."""
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

    # A process pool pickles what an activity raises. The default would call `__init__` with the one string in `args`
    # ("type: message"), and lose the details.
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return type(self).__new__, (type(self), *self.args), self.__dict__


class FenceMisuse(_SagaError, RuntimeError):
    """The effect of `fence.once` ended its transaction. This proves nothing, and is not retried.

    A step whose record was committed is undone. A compensation has failed, and a person has to look.
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
    """The `deadline=` of a saga passed; the saga has been unwound."""


class SagaStateTooLarge(_SagaError):
    """`detach()` would return more than the server takes. The saga stays as it is; uncaught, this error unwinds it."""


class DuplicateStep(_SagaError):
    """A handler called the same step with the same `key=` twice. The second call had no effect.

    In the main method the same is misuse, and fails the workflow task: there only the programmer can have caused it.
    """


class ActivityFailure(_SagaError):
    """What the errors to raise in an activity share. Raise one of its subclasses."""

    kind: ClassVar[FailureKind]
    """What the failure means; the mark carries the kind."""
    is_doubtful: bool = False
    """Whether another request of the same call may have had an effect, so that the kind is no proof. The library's."""
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

    Tried again. A `Declined` in the next attempt is proof only with `classify_errors` or `SagaPlugin(classify=...)`,
    which tell the next attempt what this one knew.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
        retry_after: How long to wait before the next attempt, in place of the retry policy's interval.
    """

    kind = FailureKind.NOT_SENT
    _default = "not sent"


class Throttled(ActivityFailure):
    """Raise in an activity: the request is refused for now, and nothing took effect (429, a quota).

    Tried again. Category BENIGN: the SDK logs it at DEBUG and counts no failure. Proof as `NotSent` is.

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

    Tried again. Proof as `NotSent` is.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
        retry_after: How long to wait before the next attempt, in place of the retry policy's interval.
    """

    kind = FailureKind.CONFLICT
    _default = "conflict"


class InProgress(ActivityFailure):
    """Raise in an activity: another attempt is still running, and may yet take effect. Proves nothing.

    Tried again. Category BENIGN: the SDK logs it at DEBUG and counts no failure.

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

    Tried again, which is safe with an idempotency key; `presets.at_most_once` does not try again.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
        retry_after: How long to wait before the next attempt, in place of the retry policy's interval.
    """

    kind = FailureKind.AMBIGUOUS
    _default = "it may have taken effect"


class Declined(_Final):
    """Raise in an activity: the other side answered no, as business (a declined card), and nothing took effect.

    Not retried. Category BENIGN: the SDK logs it at DEBUG and counts no failure. On the first attempt it proves that
    the step had no effect, so the step's compensation does not run. On a later attempt it proves nothing of the
    attempts before it, unless `classify_errors` or `SagaPlugin(classify=...)` saw them. With either of these it proves
    nothing once the activity has sent heartbeat details.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
    """

    kind = FailureKind.DECLINED
    _benign = True
    _default = "declined"


class Rejected(_Final):
    """Raise in an activity: the request is refused, now and later, and nothing took effect (bad input, 422).

    Not retried. Proof as `Declined` is.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
    """

    kind = FailureKind.REJECTED
    _default = "rejected"


class AuthenticationError(_Final):
    """Raise in an activity: the credentials or permissions do not allow the request, and nothing took effect.

    Not retried. Proof as `Declined` is.

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
    """Raise in an activity: the step was undone before this attempt came, and the attempt took no effect.

    Not retried. Proof as `Declined` is.

    Args:
        message: A message for people.
        details: Anything the data converter can encode. The library appends its mark as the last detail.
    """

    kind = FailureKind.FENCED
    _default = "the step was undone before"


def restated(
    failure: ActivityFailure, *, effect: Effect | None = None, retry_after: timedelta | None, non_retryable: bool
) -> ActivityFailure:
    """Return a failure with other words in its mark, and on when to try again. For the library itself.

    Args:
        failure: What an activity raised.
        effect: What is known of the effect, all attempts taken together; None leaves the mark as it is.
        retry_after: When to try again; None is the retry policy's interval.
        non_retryable: Whether never to try again.

    Returns:
        The failure itself if it says all that, else a copy: another attempt may have raised the same object.
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
    # A copy has none of these, and a `raise` would make the original its context.
    other.__cause__ = failure.__cause__ if failure.__suppress_context__ else failure.__context__
    return other.with_traceback(failure.__traceback__)


def _earlier_attempts_are_definite() -> bool:
    # A workflow cannot know what its activities did.
    return activity.in_activity() and earlier_attempts_are_definite(activity.info())
