# pyright: reportPrivateUsage=false
"""What an activity's exception means, and what becomes of it.

    @activity.defn
    @classify_errors(profile=stripe)
    async def charge(order: Order) -> str: ...

A read timeout becomes `Ambiguous`, a declined card `Declined`, 429 with Retry-After `Throttled` with that delay:
`classify_errors` does it for an activity, `SagaPlugin(classify=True)` for all of a worker. Nothing changes for an
activity that returns.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, overload

from temporalio import activity
from temporalio.exceptions import ApplicationError, CancelledError

from ._attempt import LONGEST_DELAY, Attempt, enter_attempt
from ._failure_rules import (
    Rule,
    check_kinds,
    check_rules,
    code_of,
    headers_of,
    hides_code,
    kind_of,
    match_rule,
    retry_hint,
    status_of,
    told_by,
)
from ._proof import says_no_effect
from .errors import (
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
)

__all__ = ["Profile", "Rule", "adyen", "classify", "classify_errors", "paypal", "square", "stripe"]


@dataclass(frozen=True)
class Profile:
    """What failures mean with one provider: the same 409 means different things.

    Attributes:
        rules: Classes of exceptions; the first that fits the most derived class decides.
        codes: Error codes, as the provider's own library has them on its exceptions, or as the body of the answer has
            them where httpx or requests have read it.
        statuses: HTTP statuses.
        retry_header: A header of a response that says `true` or `false` to trying again with the same key.
    """

    rules: Sequence[Rule] = ()
    codes: Mapping[str, FailureKind] = field(default_factory=dict[str, FailureKind])
    statuses: Mapping[int, FailureKind] = field(default_factory=dict[int, FailureKind])
    retry_header: str | None = None

    def __post_init__(self) -> None:
        for name, kinds in (("codes", self.codes), ("statuses", self.statuses)):
            check_kinds(f"Profile({name}=...)", kinds.values())
        check_rules("Profile(rules=...)", self.rules)
        for name, kinds, of in (("codes", self.codes, str), ("statuses", self.statuses, int)):
            for key in cast("Mapping[object, FailureKind]", kinds):
                if not isinstance(key, of):
                    raise TypeError(f"Profile({name}=...) has {key!r}, which is no {of.__name__}")


# https://docs.stripe.com/api/idempotent_requests, https://docs.stripe.com/error-codes; the header is in stripe-python,
# `_http_client.py`: false for most 500s, since the same key would get the same 500 again.
stripe: Profile = Profile(
    codes={
        "idempotency_error": FailureKind.KEY_MISUSE,  # its type, without a code
        "idempotency_key_in_use": FailureKind.IN_PROGRESS,
        "lock_timeout": FailureKind.IN_PROGRESS,
    },
    statuses={409: FailureKind.IN_PROGRESS},
    retry_header="stripe-should-retry",
)
"""Stripe: 409 is a request with this key that still runs."""

# https://docs.adyen.com/development-resources/api-idempotency: 704 is a request with this key that still runs, with
# 422 or 409; 703 is that their store of keys is down, with 503.
adyen: Profile = Profile(
    codes={"703": FailureKind.AMBIGUOUS, "704": FailureKind.IN_PROGRESS},
    statuses={409: FailureKind.IN_PROGRESS},
    retry_header="transient-error",
)
"""Adyen: 409 is a request with this key that still runs; the header `transient-error` says whether to try again."""

# https://developer.squareup.com/docs/working-with-apis/idempotency; the codes are in squareup, `error_code.py`.
square: Profile = Profile(
    codes={
        "IDEMPOTENCY_KEY_REUSED": FailureKind.KEY_MISUSE,
        "RATE_LIMITED": FailureKind.THROTTLED,
        "TEMPORARY_ERROR": FailureKind.AMBIGUOUS,
        **dict.fromkeys(
            [
                "ALLOWABLE_PIN_TRIES_EXCEEDED",
                "ADDRESS_VERIFICATION_FAILURE",
                "BUYER_REFUSED_PAYMENT",
                "CARD_DECLINED",
                "CARD_DECLINED_CALL_ISSUER",
                "CARD_DECLINED_VERIFICATION_REQUIRED",
                "CARD_EXPIRED",
                "CARD_NOT_SUPPORTED",
                "CVV_FAILURE",
                "GENERIC_DECLINE",
                "INSUFFICIENT_FUNDS",
                "PAYMENT_LIMIT_EXCEEDED",
                "REFUND_DECLINED",
                "TRANSACTION_LIMIT",
                "VOICE_FAILURE",
            ],
            FailureKind.DECLINED,
        ),
    },
    statuses={409: FailureKind.IN_PROGRESS},
)
"""Square: a card's refusals are `DECLINED`, `IDEMPOTENCY_KEY_REUSED` (400) is `KEY_MISUSE`."""

# https://developer.paypal.com/api/rest/reference/idempotency: of two requests with one id at once the second may fail.
paypal: Profile = Profile(
    codes={
        "DUPLICATE_REQUEST_ID": FailureKind.KEY_MISUSE,
        "INSTRUMENT_DECLINED": FailureKind.DECLINED,
        "PAYPAL_REQUEST_ID_PREVIOUSLY_USED": FailureKind.KEY_MISUSE,
        "TRANSACTION_REFUSED": FailureKind.DECLINED,
    },
    statuses={409: FailureKind.IN_PROGRESS},
)
"""PayPal: 409 is a request with this id that still runs."""

_NO_PROFILE = Profile()
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
    """Return what an exception means. One that no rule knows is a `BUG`: it may have come after the effect.

    Its causes are not looked at: `raise Mine from httpx.ReadTimeout` is of a class of yours, for a rule of yours.

    Args:
        exception: Of any library: the known ones are matched by name, and none is imported.
        profile: What failures mean with the provider that was called; it comes before the built-in rules.
    """
    if isinstance(exception, ActivityFailure):
        return exception.kind
    profile = checked_profile(profile)
    kind = match_rule(exception, profile.rules)
    if kind is not None:
        return kind
    kind = kind_of(exception, profile.rules, profile.statuses)
    coded = _coded(exception, profile)
    # A refusal by its code is no proof if the answer as a whole proves nothing: a 500, one of several tries.
    if coded is not None and (coded.effect == "unknown" or kind is not FailureKind.AMBIGUOUS):
        kind = coded
    if kind is not FailureKind.REJECTED:
        return kind
    # The provider knows better than its status does; it still does not say that nothing took effect.
    is_doubtful = _advice(exception, profile) == "true" or _may_hide_effect(exception, profile)
    return FailureKind.AMBIGUOUS if is_doubtful else kind


def checked_profile(profile: object) -> Profile:
    """Return a profile, an empty one for None; raise TypeError for anything else."""
    if profile is None:
        return _NO_PROFILE
    if not isinstance(profile, Profile):
        raise TypeError(f"profile is {profile!r}, no Profile: classification.stripe, or Profile(...)")
    return profile


T = TypeVar("T")


def _read(reader: Callable[[BaseException], T], exception: BaseException) -> T | None:
    try:
        return reader(exception)
    except Exception:  # an attribute of someone's class that raises must not take the place of the error
        return None


def _coded(exception: BaseException, profile: Profile) -> FailureKind | None:
    code = _read(code_of, exception)
    return None if code is None else profile.codes.get(code)


def _may_hide_effect(exception: BaseException, profile: Profile) -> bool:
    # A key that was used before comes with these, and the code that says so may not be there to be seen.
    may_be_there = _read(status_of, exception) in (400, 422) and _read(hides_code, exception) is not False
    return may_be_there and any(kind.effect == "unknown" for kind in profile.codes.values())


def _advice(exception: BaseException, profile: Profile) -> str | None:
    headers = _read(headers_of, exception) or {}
    return headers.get(profile.retry_header, "").lower() if profile.retry_header else None


def translated(error: Exception, profile: Profile) -> Exception:
    """Return the error that says what an activity's error means; the same one where it says so itself, or must not.

    It has the activity's error as its cause.
    """
    if isinstance(error, (ActivityFailure, CancelledError, FenceMisuse)):
        return error
    if isinstance(error, ApplicationError):
        kind = match_rule(error, profile.rules)
        if kind is None:
            return _of_another_activity(error)
    else:
        kind = classify(error, profile=profile)
        if kind not in _ERRORS and _gives_up_if_ambiguous():
            kind = FailureKind.AMBIGUOUS
    if kind not in _ERRORS:
        return error
    of = type(error)
    name = of.__name__ if of.__module__ == "builtins" else f"{str(of.__module__).partition('.')[0]}.{of.__name__}"
    told = _read(lambda each: told_by(each, profile.codes), error)
    failure = _ERRORS[kind](f"{name} {told}" if told else name)
    delay = error.next_retry_delay if isinstance(error, ApplicationError) else retry_hint(error)
    failure._try_again(after=delay and min(delay, LONGEST_DELAY))
    failure.__cause__ = error
    if _advice(error, profile) == "false":
        failure._give_up()
    return failure


def _of_another_activity(error: ApplicationError) -> ApplicationError:
    # Its author decided. But a mark on it is that of another activity, read from the failure of some workflow, and says
    # nothing of this one.
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


Activity = TypeVar("Activity", bound=Callable[..., Any])


@overload
def classify_errors(function: Activity, /) -> Activity: ...


@overload
def classify_errors(
    *, profile: Profile | None = None, rules: Sequence[Rule] = ()
) -> Callable[[Activity], Activity]: ...


def classify_errors(function: Any = None, /, *, profile: Profile | None = None, rules: Sequence[Rule] = ()) -> Any:
    """Turn what escapes an activity into the error that says what it means. A decorator.

    For functions and methods, async or not, in threads and in process pools, above or below `@activity.defn`; a class
    that is called is decorated as a class, or at its `__call__`. Nothing around it may catch what it raises and go on.

    An error speaks for the call that it came from: "not sent" is true of an activity with one effect. One that has had
    another effect before raises `Ambiguous` by itself, or is split in two.

    What no rule knows goes on as it is, as do `ApplicationError`s of your own and cancellation. But where the retry
    policy does not retry `Ambiguous` (`presets.at_most_once`), what no rule knows becomes that.

    Args:
        function: The activity.
        profile: What failures mean with the provider that it calls.
        rules: Rules of its own, which come before the profile's.
    """
    profile = checked_profile(profile)
    check_rules("rules", rules)
    profile = dataclasses.replace(profile, rules=(*rules, *profile.rules))

    def decorate(target: Any) -> Any:
        if not inspect.isclass(target):
            return _guarded(target, profile)
        if "__call__" not in vars(target):
            raise TypeError(f"{target.__name__} has no __call__ of its own: decorate the class that has it")
        cast(Any, target).__call__ = _guarded(target.__call__, profile)
        return cast(Any, target)

    return decorate if function is None else decorate(function)


def _guarded(function: Any, profile: Profile) -> Any:
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        raise TypeError(f"classify_errors is for a function, a method or a class, not for {function!r}")

    def enter(args: tuple[Any, ...]) -> Attempt | None:
        # `activity.defn` leaves it on what it decorates, and `functools.wraps` hands it on: either may come first.
        holder = args[0] if args and function.__name__ == "__call__" else run
        return enter_attempt(getattr(holder, "__temporal_activity_definition", None))

    def fail(error: Exception, attempt: Attempt | None) -> None:
        failure = translated(error, profile)
        if attempt is not None:
            failure = attempt.settle(failure)
        if failure is not error:
            raise failure

    @functools.wraps(function)
    def run_sync(*args: Any, **kwargs: Any) -> Any:
        attempt = enter(args)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            fail(error, attempt)
            raise

    @functools.wraps(function)
    async def run_async(*args: Any, **kwargs: Any) -> Any:
        attempt = enter(args)
        try:
            return await function(*args, **kwargs)
        except Exception as error:
            fail(error, attempt)
            raise

    run = run_async if inspect.iscoroutinefunction(function) else run_sync
    return run
