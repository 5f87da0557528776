# pyright: reportPrivateUsage=false
"""One attempt of an activity: what it knows of those before it, and what it hands on to the next.

A workflow sees the last failure of an activity only, and "declined" says nothing of an attempt before it that may have
taken effect. So a failure says "no effect" only if each earlier attempt is known to have had none. An attempt that ends
so, and will be tried again, leaves our mark behind the user's own heartbeat details: the last heartbeat travels with
the failure, and the server gives it to the next attempt.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import activity

from ._proof import earlier_attempts_are_definite, heartbeat_mark, without_mark
from .errors import ActivityFailure

__all__ = ["LONGEST_DELAY", "Attempt", "enter_attempt"]

LONGEST_DELAY = timedelta(days=1)


class Attempt:
    """One attempt, seen from around the activity's function.

    Args:
        info: What the SDK says of it.
        heartbeat: Sends a heartbeat; None if its details cannot be followed, so that no mark may be left.

    Attributes:
        info: The same without our mark, for the activity to see.
    """

    def __init__(self, info: activity.Info, heartbeat: Callable[..., None] | None) -> None:
        self._began = time.monotonic()  # noqa: TID251 - in an activity
        self._heartbeat = heartbeat
        self._definite_before = earlier_attempts_are_definite(info)
        self._details = without_mark(info.heartbeat_details)
        self._has_left_mark = False
        has_mark = self._details is not info.heartbeat_details
        self.info = dataclasses.replace(info, heartbeat_details=self._details) if has_mark else info
        if has_mark and not self._definite_before:
            # A stale one. An operator's reset counts attempts anew, so that one to come could have its number.
            with suppress(Exception):
                self._send(*self._details)

    def heartbeat(self, *details: Any) -> None:
        """Send a heartbeat of the activity's own, and keep its details."""
        # `classify_errors` within the plugin leaves a mark, too; the plugin leaves its own.
        self._details = without_mark(details)
        self._send(*self._details)

    def settle(self, failure: Exception) -> Exception:
        """Return the failure with which the attempt ends, with all that is known of the attempts in it.

        It is to be raised without a `from`: a copy has the cause of its original.
        """
        if not isinstance(failure, ActivityFailure):
            return failure
        failure = failure._settled(
            definite_before=self._definite_before, retry_after=self._clamped(failure.next_retry_delay)
        )
        is_definite = self._definite_before and failure.kind.effect == "none"
        if is_definite and not failure.non_retryable and not self.info.is_local:
            self._has_left_mark = True
            # Unsent it makes the next attempt ambiguous, which is safe; this failure matters more.
            with suppress(Exception):
                self._send(*self._details, heartbeat_mark(self.info.attempt))
        return failure

    def goes_on(self) -> None:
        """Take the mark back: something caught the failure, and called the activity's function again."""
        if self._has_left_mark:
            self._has_left_mark = False
            self._send(*self._details)

    def _send(self, *details: Any) -> None:
        if self._heartbeat is not None:
            self._heartbeat(*details)

    def _clamped(self, delay: timedelta | None) -> timedelta | None:
        """Shorten a delay so that one more attempt fits before schedule-to-close: past it the server stops at once."""
        if delay is None:
            return None
        delay = min(delay, LONGEST_DELAY)
        if self.info.schedule_to_close_timeout is None:
            return delay
        # On the server's clock, which this machine's need not agree with (and does not under time skipping).
        now = self.info.started_time + timedelta(seconds=time.monotonic() - self._began)  # noqa: TID251
        left = max(self.info.scheduled_time + self.info.schedule_to_close_timeout - now, timedelta(0))
        return min(delay, left - min(self.info.start_to_close_timeout or left, left / 2)) or None


def enter_attempt(definition: Any) -> Attempt | None:
    """Return the running attempt of an activity, for a decorator; None for a function that is not the running activity.

    Without the plugin only the SDK's own context can hide the mark, and tell which details the activity sent.

    Args:
        definition: The SDK's definition of the decorated activity.
    """
    if not activity.in_activity():
        return None  # called by hand, in a test
    info = activity.info()
    if definition is None or getattr(definition, "name", None) not in (None, info.activity_type):
        return None  # a helper: the activity may catch what it raises, and go on
    # Private, hence the guard: where the SDK has changed, no mark is left.
    context: Any = None
    with suppress(AttributeError):
        context = activity._Context.current()
    if not all(callable(getattr(context, name, None)) for name in ("info", "heartbeat")):
        return Attempt(info, None)
    before = getattr(context.heartbeat, "__self__", None)
    if isinstance(before, Attempt):
        before.goes_on()
        return None
    attempt = Attempt(info, context.heartbeat)
    context.info = lambda: attempt.info
    context.heartbeat = attempt.heartbeat
    return attempt
