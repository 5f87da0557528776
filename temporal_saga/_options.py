"""The options of a call, checked where they are written.

The SDK checks them when the call starts. For an undo that is too late: the workflow task of the saga's first unwind
would fail, again and again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, cast

from temporalio import workflow
from temporalio.api.common.v1 import RetryPolicy as EncodedPolicy
from temporalio.common import RetryPolicy

from ._typing import Kind


def _types(config: Any) -> dict[str, type | None]:
    names = {*config.__required_keys__, *config.__optional_keys__, "result_type"} - {"activity_id"}
    return {
        name: timedelta if name.endswith("_timeout") else RetryPolicy if name == "retry_policy" else None
        for name in names
    }


# The type of each option that would otherwise fail far from where it is written; None for the other options.
_TYPES: Mapping[Kind, Mapping[str, type | None]] = {
    "activity": _types(workflow.ActivityConfig),
    "child": _types(workflow.ChildWorkflowConfig),
}
_OF_A_STEP = ("args", "compensation", "compensation_from", "key", "on_step_failure", "step")
# What other libraries call it.
_SLIPS = {
    **dict.fromkeys(("retries", "attempts", "max_retries", "max_attempts"), "maximum_attempts"),
    "timeout": "start_to_close_timeout",
}
_POLICY = [field.name for field in fields(RetryPolicy)]


def check_options(options: Mapping[str, object], kind: Kind) -> None:
    """Raise if the SDK would refuse the options of a call of this kind.

    Raises:
        TypeError: If a name is not an option, or a value has the wrong type. The message says what to write.
        ValueError: If a retry policy contradicts itself.
    """
    check_types(options, kind)
    policy = options.get("retry_policy")
    if isinstance(policy, RetryPolicy):
        policy.apply_to_proto(EncodedPolicy())


def check_types(options: Mapping[str, object], kind: Kind) -> None:
    """Raise TypeError if a name is not an option, or a value has the wrong type. The message says what to write."""
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
    """Raise TypeError for a keyword that a step does not have. The message says what to write."""
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


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError if a value is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(json.dumps(choice) for choice in choices)}; got {value!r}")


def check_duration(name: str, value: object) -> None:
    """Raise TypeError if a value is not a timedelta: 30 for 30 s is a common slip."""
    if not isinstance(value, timedelta):
        seconds = value if type(value) in (int, float) else 30
        raise TypeError(f"{name} must be a timedelta, such as timedelta(seconds={seconds}); got {value!r}")


def _check_policy(policy: object) -> None:
    if not isinstance(policy, RetryPolicy):
        raise TypeError(
            f"retry_policy must be a RetryPolicy, such as presets.standard.policy or RetryPolicy(...); got {policy!r}"
        )
    check_duration("initial_interval", policy.initial_interval)
    if policy.maximum_interval is not None:
        check_duration("maximum_interval", policy.maximum_interval)
    for each in policy.non_retryable_error_types or ():
        if not isinstance(cast("object", each), str):
            name = getattr(each, "__name__", "ValueError")
            raise TypeError(f"non_retryable_error_types must hold names, such as {name!r}; got {each!r}")


def _unknown(name: str, value: object, kind: Kind) -> str:
    if name == "activity_id":
        return "the saga sets the activity id, which carries the key: leave out activity_id="
    what = "a child workflow" if kind == "child" else "an activity"
    known = _SLIPS.get(name) if kind == "activity" or name != "timeout" else None
    nearest = [known] if known else get_close_matches(name, [*_TYPES[kind], *_POLICY], 1)
    if not nearest:
        return f"{name}= is not an option of {what}"
    if nearest[0] not in _POLICY:
        return f"{name}= is not an option of {what}; did you mean {nearest[0]}=?"
    part = f"{nearest[0]}={value!r}"
    fix = f"retry_policy=RetryPolicy({part})" if kind == "child" else f"dataclasses.replace(presets.standard, {part})()"
    return f"{name}= is not an option of {what} but of its retry policy: write {fix}"
