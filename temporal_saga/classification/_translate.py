"""Finds the kind that an exception means, and makes the error that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, CancelledError

from temporal_saga._proof import says_no_effect
from temporal_saga.errors import (
    ActivityFailure,
    Ambiguous,
    AuthenticationError,
    Conflict,
    Declined,
    FailureKind,
    Fenced,
    FenceMisuse,
    InProgress,
    KeyMisuse,
    NotSent,
    Rejected,
    Throttled,
    restated,
)

from ._attempt import LONGEST_DELAY
from ._hints import is_spent
from ._profiles import PROVIDERS, Profile, checked_profile
from ._read import (
    Reading,
    code_of,
    headers_of,
    hides_code,
    library_of,
    match_rule,
    reading_as,
    reading_of,
    retry_hint,
    status_of,
    told_by,
)

__all__ = ["classify", "translated"]

_ERRORS: dict[FailureKind, type[ActivityFailure]] = {
    error.kind: error
    for error in (
        Ambiguous,
        AuthenticationError,
        Conflict,
        Declined,
        Fenced,
        InProgress,
        KeyMisuse,
        NotSent,
        Rejected,
        Throttled,
    )
}


def classify(exception: BaseException, *, profile: Profile | None = None) -> FailureKind:
    """Return what an exception means.

    The causes do not count: `raise Mine from httpx.ReadTimeout` raises your own class, which needs your own rule.

    Args:
        exception: An exception of any library. The known ones are matched by name, and none is imported.
        profile: The meaning of failures with the provider that was called. It comes before the built-in rules.

    Returns:
        The kind of the whole call. If the failure would prove that nothing took effect, but the client may have sent
        another request in the same call, it is `AMBIGUOUS`. An exception that no rule knows is a `BUG`, since it may
        have come after the effect.

    Raises:
        TypeError: If `profile` is not a `Profile`.
    """
    if isinstance(exception, ActivityFailure):
        return FailureKind.AMBIGUOUS if exception.is_doubtful else exception.kind
    return _read(exception, _with_provider(exception, checked_profile(profile))).claim


def _with_provider(exception: BaseException, profile: Profile) -> Profile:
    """Return the profile, completed by the built-in profile of the provider that the exception's class names."""
    named = library_of(exception).provider
    if not named or PROVIDERS[named] is profile:
        return profile
    provider = PROVIDERS[named]
    return Profile(
        rules=profile.rules,
        codes={**provider.codes, **profile.codes},
        statuses={**provider.statuses, **profile.statuses},
        retry_header=profile.retry_header or provider.retry_header,
        client_retries=profile.client_retries,
    )


def _read(exception: BaseException, profile: Profile) -> Reading:
    rule = match_rule(exception, profile.rules)
    read = reading_of(exception, profile.rules, profile.statuses, client_retries=profile.client_retries)
    if rule is not None:
        return read
    coded = _coded(exception, profile)
    # A code that refuses is not a proof if the answer as a whole proves nothing, as a 500 does.
    if coded is not None and (coded.effect == "unknown" or read.kind is not FailureKind.AMBIGUOUS):
        read = Reading(coded, read.is_proof and reading_as(coded, exception, profile.client_retries).is_proof)
    if read.kind is not FailureKind.REJECTED:
        return read
    # The provider's header says more than its status, but not that nothing took effect.
    is_doubtful = _advice(exception, profile) == "true" or _may_hide_effect(exception, profile)
    return Reading(FailureKind.AMBIGUOUS) if is_doubtful else read


def translated(error: Exception, profile: Profile) -> Exception:
    """Return the error that says what an activity's error means, with the activity's error as its cause.

    Return the activity's error itself if it already says what it means, if no rule knows it, or if it must go on as it
    is.
    """
    if isinstance(error, (ActivityFailure, CancelledError, FenceMisuse)):
        return error
    is_doubtful = False
    if isinstance(error, ApplicationError):
        rule = match_rule(error, profile.rules)
        if rule is None:
            return _of_another_activity(error)
        kind = rule.kind
    else:
        profile = _with_provider(error, profile)
        read = _read(error, profile)
        # A final failure stays final: a retry would be refused too. But it proves nothing.
        is_doubtful = not read.is_proof and not read.kind.retryable
        kind = read.kind if is_doubtful else read.claim
        if kind not in _ERRORS and _gives_up_if_ambiguous():
            kind = FailureKind.AMBIGUOUS
    if kind not in _ERRORS:
        return error
    of = type(error)
    name = of.__name__ if of.__module__ == "builtins" else f"{str(of.__module__).partition('.')[0]}.{of.__name__}"
    told = _try_read(lambda each: told_by(each, profile.codes), error)
    delay = error.next_retry_delay if isinstance(error, ApplicationError) else retry_hint(error)
    failure = restated(
        _ERRORS[kind](f"{name} {told}" if told else name),
        effect="unknown" if is_doubtful else None,
        retry_after=delay and min(delay, LONGEST_DELAY),
        non_retryable=not kind.retryable or _advice(error, profile) == "false" or _is_over_limit(error),
    )
    failure.is_doubtful = is_doubtful
    failure.__cause__ = error
    return failure


T = TypeVar("T")


def _try_read(reader: Callable[[BaseException], T], exception: BaseException) -> T | None:
    try:
        return reader(exception)
    except Exception:  # if an attribute of someone's class raises, the activity's own error still goes on
        return None


def _coded(exception: BaseException, profile: Profile) -> FailureKind | None:
    code = _try_read(code_of, exception) if profile.codes else None
    return None if code is None else profile.codes.get(code)


def _may_hide_effect(exception: BaseException, profile: Profile) -> bool:
    # Providers answer a key that was used before with these statuses, and the code that says so may not be visible.
    may_be_there = _try_read(status_of, exception) in (400, 422) and _try_read(hides_code, exception) is not False
    return may_be_there and any(kind.effect == "unknown" for kind in profile.codes.values())


def _advice(exception: BaseException, profile: Profile) -> str | None:
    headers = _try_read(headers_of, exception) or {}
    return headers.get(profile.retry_header, "").lower() if profile.retry_header else None


def _is_over_limit(exception: BaseException) -> bool:
    # Even if an earlier request of the client may have had an effect: no later request will.
    return _try_read(status_of, exception) == 429 and is_spent(_try_read(code_of, exception))


def _of_another_activity(error: ApplicationError) -> ApplicationError:
    # The author of the error decided. But a mark on it comes from another activity, through the failure of some
    # workflow, and says nothing about this activity.
    if not says_no_effect(error):
        return error
    failure = ApplicationError(
        error.message,
        *error.details[:-1],
        type=error.type,
        non_retryable=error.non_retryable,
        next_retry_delay=error.next_retry_delay,
        category=error.category,
    )
    failure.__cause__ = error
    return failure


def _gives_up_if_ambiguous() -> bool:
    policy = activity.info().retry_policy if activity.in_activity() else None
    return policy is not None and Ambiguous.__name__ in (policy.non_retryable_error_types or ())
