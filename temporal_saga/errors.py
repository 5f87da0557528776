"""The errors of the library, and what each says of a step.

Every error that may cross a process is an `ApplicationError`, since only its type and details travel
(the SDK's failure converter): its type is the bare class name, and code on the other side matches on that.

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
    ├── InProgress              another attempt is at it
    ├── Ambiguous               it may have taken effect
    │   raise in an activity, which is not tried again:
    ├── Declined                the answer is no, as business
    ├── Rejected                the request cannot succeed
    ├── AuthenticationError     not allowed: credentials, permissions
    ├── KeyMisuse               the key was used with another payload
    └── Fenced                  the step was undone before it came

Misuse that only the programmer can cause is a plain `RuntimeError`, `TypeError` or `ValueError`. It fails the workflow
task, which is retried until a fixed deployment carries on: nothing is lost, and nothing is refunded for a bug.
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
from ._proof import earlier_attempts_are_definite, failure_mark

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
    """What a failure of an activity's attempt means: whether to try again, and what it says of the effect."""

    NOT_SENT = "NOT_SENT"
    """The request never left: refused connection, name not found."""
    THROTTLED = "THROTTLED"
    """Refused, to be tried later: 429, a quota."""
    CONFLICT = "CONFLICT"
    """Rolled back by a conflict: deadlock, serialization failure."""
    IN_PROGRESS = "IN_PROGRESS"
    """The same key is being processed: another attempt may yet take effect."""
    AMBIGUOUS = "AMBIGUOUS"
    """Sent, and no answer that says what became of it: a read timeout, a 500."""
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
        """What a failure of this kind says by itself of the effect; of earlier attempts it says nothing."""
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
    """The effect of `fence.once` ended its transaction. It proves nothing, and is not retried.

    A step is undone, if its record was committed; a compensation has failed, and a person has to look.
    """


class CompensationError(_SagaError):
    """A compensation failed for good: an effect stands, and a person has to look.

    Its cause is the error that made the saga unwind; its only detail is the `SagaReport` (a dict for a client).
    """

    def __init__(self, message: str, report: SagaReport) -> None:
        super().__init__(message, report)


class SagaClosed(_SagaError):
    """A step or a registration came after its scope had ended. It had no effect."""


class SagaDeadlineExceeded(_SagaError):
    """The `deadline=` of a saga passed; the saga has been unwound."""


class SagaStateTooLarge(_SagaError):
    """`detach()` would return more than the server takes. The saga stays as it is; if nothing catches this, it unwinds."""


class DuplicateStep(_SagaError):
    """A handler called the same step with the same `key=` twice. The second call had no effect.

    In the main method the same is misuse, and fails the workflow task: there only the programmer can have caused it.
    """


class ActivityFailure(_SagaError):
    """What the errors to raise in an activity share. Not to be raised itself."""

    kind: ClassVar[FailureKind]
    """What it means; the mark carries it."""
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

    def _settled(self, *, definite_before: bool, retry_after: timedelta | None) -> ActivityFailure:
        """Return what says, too, whether each earlier attempt is known to have ended without an effect.

        That is the error itself if it does so already, else a copy: another attempt may have raised the same object.
        """
        mark = failure_mark(self.kind.value, self.kind.effect if definite_before else "unknown")
        if self._details[-1:] == (mark,) and self._next_retry_delay == retry_after:
            return self
        settled = copy.copy(self)
        settled._details = (*self._details[:-1], mark)
        settled._next_retry_delay = retry_after
        # A copy has none of these, and a `raise` would make the original its context.
        settled.__cause__ = self.__cause__ if self.__suppress_context__ else self.__context__
        return settled.with_traceback(self.__traceback__)

    def _try_again(self, *, after: timedelta | None) -> None:
        """Set when to try again; None is the retry policy's interval."""
        self._next_retry_delay = after

    def _give_up(self) -> None:
        """Let it not be tried again, whatever its kind."""
        self._non_retryable = True


class _Final(ActivityFailure):
    def __init__(self, message: str | None = None, *details: Any) -> None:
        super().__init__(message, *details)


class NotSent(ActivityFailure):
    """Raise in an activity: the request never left, so nothing took effect.

    Tried again. A `Declined` in the attempt after it is proof only with `classify_errors` or
    `SagaPlugin(classify=...)`, which hand on what this attempt knew.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
        retry_after: When to try again, in place of the retry policy's interval.
    """

    kind = FailureKind.NOT_SENT
    _default = "not sent"


class Throttled(ActivityFailure):
    """Raise in an activity: refused for now, and nothing took effect (429, a quota).

    Tried again. Category BENIGN: the SDK logs it at DEBUG and counts no failure. Proof as `NotSent` is.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
        retry_after: When to try again, in place of the retry policy's interval.
    """

    kind = FailureKind.THROTTLED
    _benign = True
    _default = "throttled"


class Conflict(ActivityFailure):
    """Raise in an activity: a conflict rolled it back, and nothing took effect (a deadlock).

    Tried again. Proof as `NotSent` is.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
        retry_after: When to try again, in place of the retry policy's interval.
    """

    kind = FailureKind.CONFLICT
    _default = "conflict"


class InProgress(ActivityFailure):
    """Raise in an activity: another attempt is at it, and may yet take effect. Proves nothing.

    Tried again. Category BENIGN: the SDK logs it at DEBUG and counts no failure.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
        retry_after: When to try again, in place of the retry policy's interval.
    """

    kind = FailureKind.IN_PROGRESS
    _benign = True
    _default = "in progress"


class Ambiguous(ActivityFailure):
    """Raise in an activity: sent, and it may have taken effect (a read timeout). Proves nothing.

    Tried again, which is safe with an idempotency key; `presets.at_most_once` does not try again.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
        retry_after: When to try again, in place of the retry policy's interval.
    """

    kind = FailureKind.AMBIGUOUS
    _default = "it may have taken effect"


class Declined(_Final):
    """Raise in an activity: the other side answered no, as business (a declined card), and nothing took effect.

    Not retried. Category BENIGN: the SDK logs it at DEBUG and counts no failure. On the first attempt it proves that
    the step had no effect, so that its compensation does not run. On a later one it proves nothing of the attempts
    before it, unless `classify_errors` or `SagaPlugin(classify=...)` saw them.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
    """

    kind = FailureKind.DECLINED
    _benign = True
    _default = "declined"


class Rejected(_Final):
    """Raise in an activity: the request is refused, would be again, and nothing took effect (bad input, 422).

    Not retried. Proof as `Declined` is.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
    """

    kind = FailureKind.REJECTED
    _default = "rejected"


class AuthenticationError(_Final):
    """Raise in an activity: the credentials or permissions do not allow it, and nothing took effect.

    Not retried. Proof as `Declined` is.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
    """

    kind = FailureKind.AUTH
    _default = "not authorized"


class KeyMisuse(_Final):
    """Raise in an activity: the idempotency key was used with another payload, which may have taken effect.

    Not retried. Proves nothing.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
    """

    kind = FailureKind.KEY_MISUSE
    _default = "the idempotency key was used with another payload"


class Fenced(_Final):
    """Raise in an activity: the step was undone before this attempt came, and the attempt took no effect.

    Not retried. Proof as `Declined` is.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
    """

    kind = FailureKind.FENCED
    _default = "the step was undone before"


def _earlier_attempts_are_definite() -> bool:
    # A workflow cannot know what its activities did.
    return activity.in_activity() and earlier_attempts_are_definite(activity.info())
