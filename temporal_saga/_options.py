"""The options of a call, looked at where they are written down.

The SDK looks at them when the call starts. For an undo that is too late: the saga would unwind for the first time, and
its workflow task fail for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, cast

from temporalio import workflow
from temporalio.api.common.v1 import RetryPolicy as EncodedPolicy
from temporalio.common import RetryPolicy

from ._typing import Kind

__all__ = ["check_duration", "check_option_names", "check_options", "check_types"]


def _types(config: Any) -> dict[str, type | None]:
    names = {*config.__required_keys__, *config.__optional_keys__, "result_type"} - {"activity_id"}
    return {
        name: timedelta if name.endswith("_timeout") else RetryPolicy if name == "retry_policy" else None
        for name in names
    }


# The type of each option that fails far from here if it is another; None for those that are not looked at.
_TYPES: Mapping[Kind, Mapping[str, type | None]] = {
    "activity": _types(workflow.ActivityConfig),
    "child": _types(workflow.ChildWorkflowConfig),
}
_OF_A_STEP = ("args", "compensation", "compensation_from", "key", "step")
_POLICY = [field.name for field in fields(RetryPolicy)]


def check_options(options: Mapping[str, object], kind: Kind) -> None:
    """Raise if the SDK would refuse options of a call of that kind.

    Raises:
        TypeError: As `check_types` does.
        ValueError: For a retry policy that contradicts itself.
    """
    check_types(options, kind)
    policy = options.get("retry_policy")
    if isinstance(policy, RetryPolicy):
        policy.apply_to_proto(EncodedPolicy())


def check_types(options: Mapping[str, object], kind: Kind) -> None:
    """Raise TypeError for a name that is no option, and for a value of another type; it says what to write."""
    types = _TYPES[kind]
    for name, value in options.items():
        if name not in types:
            raise TypeError(_unknown(name, value, kind))
        if value is None:
            continue
        expected = types[name]
        if expected is timedelta:
            check_duration(name, value)
        elif expected is RetryPolicy:
            _check_policy(value)


def check_option_names(options: Mapping[str, object], kind: Kind) -> None:
    """Raise TypeError for a keyword of a step that does not exist; it says what to write."""
    if options.keys() <= _TYPES[kind].keys():
        return
    for name, value in options.items():
        if name not in _TYPES[kind]:
            if name == "activity_id":
                raise TypeError("the saga sets the activity id, which carries the key: use key= to tell calls apart")
            nearest = get_close_matches(name, _OF_A_STEP, 1)
            raise TypeError(
                f"{name}= is not an option of a step: {nearest[0]}= is" if nearest else _unknown(name, value, kind)
            )


def check_duration(name: str, value: object) -> None:
    """Raise TypeError if a value is no timedelta: 30 for 30 s is a common slip."""
    if not isinstance(value, timedelta):
        raise TypeError(f"{name} is {value!r}, no timedelta: timedelta(seconds={value!r})")


def _check_policy(policy: object) -> None:
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"retry_policy is {policy!r}, no RetryPolicy: presets.standard.policy, or RetryPolicy(...)")
    check_duration("initial_interval", policy.initial_interval)
    if policy.maximum_interval is not None:
        check_duration("maximum_interval", policy.maximum_interval)
    for each in policy.non_retryable_error_types or ():
        if not isinstance(cast("object", each), str):
            name = getattr(each, "__name__", "...")
            raise TypeError(f"non_retryable_error_types has {each!r}: names, not classes: {name!r}")


def _unknown(name: str, value: object, kind: Kind) -> str:
    if name == "activity_id":
        return "the saga sets the activity id, which carries the key: leave out activity_id="
    what = "a child workflow" if kind == "child" else "an activity"
    counts = name in ("retries", "attempts", "max_retries", "max_attempts")
    nearest = ["maximum_attempts"] if counts else get_close_matches(name, [*_TYPES[kind], *_POLICY], 1)
    if not nearest:
        return f"{name}= is no option of {what}"
    if nearest[0] not in _POLICY:
        return f"{name}= is no option of {what}: {nearest[0]}= is"
    part = f"{nearest[0]}={value!r}"
    fix = f"retry_policy=RetryPolicy({part})" if kind == "child" else f"dataclasses.replace(presets.standard, {part})()"
    return f"{name}= is no option of {what}, but of its retry policy: {fix}"
