"""The errors of the library.

Every error that may cross a process is an `ApplicationError`, since only its type and details travel
(the SDK's failure converter): its type is the bare class name, and code on the other side matches on that.

    ApplicationError
    ├── CompensationError       a compensation failed for good
    ├── SagaClosed              a step, or a registration, after the scope has ended
    ├── SagaDeadlineExceeded    the `deadline=` of a saga passed
    ├── Declined                raise in an activity: the answer is no, as business
    └── Rejected                raise in an activity: the request cannot succeed

Misuse that only the programmer can cause is a plain `RuntimeError`, `TypeError` or `ValueError`. It fails the workflow
task, which is retried until a fixed deployment carries on: nothing is lost, and nothing is refunded for a bug.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

if TYPE_CHECKING:
    from ._report import SagaReport

__all__ = ["CompensationError", "Declined", "Rejected", "SagaClosed", "SagaDeadlineExceeded"]

MARK = "temporal_saga"


class _SagaError(ApplicationError):
    def __init__(
        self, message: str, *details: Any, category: ApplicationErrorCategory = ApplicationErrorCategory.UNSPECIFIED
    ) -> None:
        super().__init__(message, *details, type=type(self).__name__, non_retryable=True, category=category)

    # A process pool pickles what an activity raises. The default would call `__init__` with the one string in `args`
    # ("type: message"), and lose the details.
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return type(self).__new__, (type(self), *self.args), self.__dict__


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


class _Answer(_SagaError):
    def __init__(self, message: str, *details: Any, category: ApplicationErrorCategory) -> None:
        super().__init__(message, *details, _mark(type(self).__name__.upper()), category=category)


class Declined(_Answer):
    """Raise in an activity: the other side answered no, as business (a declined card), and nothing took effect.

    Not retried. Category BENIGN: the SDK logs it at DEBUG and counts no failure. On the first attempt it proves that
    the step had no effect, so that its compensation does not run; a later attempt proves nothing of the earlier ones.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
    """

    def __init__(self, message: str = "declined", *details: Any) -> None:
        super().__init__(message, *details, category=ApplicationErrorCategory.BENIGN)


class Rejected(_Answer):
    """Raise in an activity: the request is refused, would be again, and nothing took effect (bad input, 422).

    Not retried. On the first attempt it proves that the step had no effect, as `Declined` does.

    Args:
        message: For people.
        details: Anything the data converter can encode. The library's mark is appended as the last one.
    """

    def __init__(self, message: str = "rejected", *details: Any) -> None:
        super().__init__(message, *details, category=ApplicationErrorCategory.UNSPECIFIED)


def _mark(kind: str) -> dict[str, Any]:
    # An attempt that failed before this one may have taken effect, and a workflow cannot know what its activities did.
    proven = activity.in_activity() and activity.info().attempt == 1
    return {MARK: {"v": 1, "kind": kind, "effect": "none" if proven else "unknown"}}


def says_no_effect(error: BaseException | None) -> bool:
    """Tell whether the last detail of an activity's error is our mark that nothing took effect."""
    if not isinstance(error, ApplicationError) or not error.details:
        return False
    last: object = error.details[-1]
    mark = cast("dict[str, object]", last).get(MARK) if isinstance(last, dict) else None
    return isinstance(mark, dict) and cast("dict[str, object]", mark).get("effect") == "none"
