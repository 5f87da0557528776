"""The library's mark: the last detail of a failure, and of a heartbeat.

A workflow sees only the last failure of an activity. What is known about the attempts before it travels from attempt to
attempt in the heartbeat details, which the server keeps: "attempts 1 to n ended without an effect". Attempt n + 1
trusts a mark only if its number is n. So a lost attempt breaks the chain: it leaves the older number behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from temporalio import activity
from temporalio.exceptions import ApplicationError

MARK = "temporal_saga"

Effect = Literal["none", "unknown"]


def failure_mark(kind: str, effect: Effect) -> dict[str, Any]:
    """Return the mark of a failure: its kind, and what is known about the effect of all attempts together."""
    return {MARK: {"v": 1, "kind": kind, "effect": effect}}


def heartbeat_mark(definite_through: int) -> dict[str, Any]:
    """Return the mark of a heartbeat: attempts 1 to `definite_through` ended without an effect."""
    return {MARK: {"v": 1, "definite_through": definite_through}}


def mark_in(details: Sequence[Any]) -> dict[str, Any] | None:
    """Return the content of the mark at the end of some details; None if there is no mark."""
    last: object = details[-1] if details else None
    if not isinstance(last, dict) or len(cast("dict[str, object]", last)) != 1:
        return None
    mark = cast("dict[str, object]", last).get(MARK)
    return cast("dict[str, Any]", mark) if isinstance(mark, dict) else None


def without_mark(details: Sequence[Any]) -> Sequence[Any]:
    """Return heartbeat details as the user gave them."""
    mark = mark_in(details)
    return details if mark is None or "definite_through" not in mark else details[:-1]


def says_no_effect(error: BaseException | None) -> bool:
    """Tell whether the last detail of an activity's error is our mark that nothing took effect."""
    mark = mark_in(error.details) if isinstance(error, ApplicationError) else None
    return mark is not None and mark.get("effect") == "none"


def earlier_attempts_are_definite(info: activity.Info) -> bool:
    """Tell whether each attempt before this one is known to have ended without an effect."""
    if without_mark(info.heartbeat_details):
        return False  # progress: an earlier attempt has done something
    if info.attempt == 1:
        # After an operator's reset, an activity starts again at attempt 1. Only this time differs then (measured on
        # server 1.32).
        return info.current_attempt_scheduled_time <= info.scheduled_time
    mark = mark_in(info.heartbeat_details)
    return mark is not None and mark.get("definite_through") == info.attempt - 1
