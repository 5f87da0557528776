"""Turns the exceptions of activities into errors that say what they mean.

    @activity.defn
    @classify_errors(profile=stripe)
    async def charge(order: Order) -> str: ...

A read timeout becomes `Ambiguous`, a declined card `Declined`, a 429 with Retry-After `Throttled` with that delay.
`classify_errors` does this for one activity, and `SagaPlugin(classify=True)` for all activities of a worker. Nothing
changes for an activity that returns.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast, overload

from ._attempt import Attempt, enter_attempt
from ._profiles import (
    Profile,
    Rule,
    adyen,
    anthropic,
    check_rules,
    checked_profile,
    google,
    openai,
    paypal,
    square,
    stripe,
)
from ._translate import classify, translated

__all__ = [
    "Profile",
    "Rule",
    "adyen",
    "anthropic",
    "classify",
    "classify_errors",
    "google",
    "openai",
    "paypal",
    "square",
    "stripe",
]

Activity = TypeVar("Activity", bound=Callable[..., Any])


@overload
def classify_errors(function: Activity, /) -> Activity: ...


@overload
def classify_errors(
    *, profile: Profile | None = None, rules: Sequence[Rule] = ()
) -> Callable[[Activity], Activity]: ...


def classify_errors(function: Any = None, /, *, profile: Profile | None = None, rules: Sequence[Rule] = ()) -> Any:
    """Decorate an activity: its exceptions become the errors that say what they mean.

    Works for functions and methods, async or not, in threads and in process pools, above or below `@activity.defn`.
    Decorate a callable class itself, or its `__call__`. Nothing around the decorator may catch its error and go on.

    An error speaks only for the call that raised it: "not sent" is true of an activity with one effect. If the activity
    has sent heartbeat details, it has done something before, and its errors prove nothing. If an activity has another
    effect and sends no details, raise `Ambiguous` yourself, or split the activity in two.

    An exception that no rule knows goes on as it is. So do your own `ApplicationError`s, and cancellation. But an
    exception that no rule knows becomes `Ambiguous` if the retry policy does not retry `Ambiguous`
    (`presets.at_most_once`).

    Args:
        function: The activity.
        profile: The meaning of failures with the provider that the activity calls.
        rules: The activity's own rules. They come before the profile's.

    Raises:
        TypeError: If the target is not a function, a method or a class; if `profile` is not a `Profile`, or `rules` not
            a list of rules.
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
        # `activity.defn` sets it on the function, and `functools.wraps` copies it: either decorator may come first.
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
