"""One attempt of an activity: what it knows about the attempts before it, and what it tells the next one.

A workflow sees only the last failure of an activity. "Declined" says nothing about an earlier attempt that may have had
its effect. So a failure says "no effect" only if every earlier attempt is known to have had none. If such an attempt
will be retried, it leaves our mark in the heartbeat details. The last heartbeat travels with the failure, and the
server gives it to the next attempt.

Heartbeat details that the activity sends are progress: it has done something, and the error of a later call does not
say that nothing took effect. So an activity that has sent details, in this attempt or before, proves nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import activity

from temporal_saga._proof import earlier_attempts_are_definite, heartbeat_mark, without_mark
from temporal_saga.errors import ActivityFailure, restated

__all__ = ["LONGEST_DELAY", "Attempt", "enter_attempt"]

LONGEST_DELAY = timedelta(days=1)


class Attempt:
    """One attempt, seen from around the activity's function.

    Args:
        info: The SDK's info about the attempt.
        heartbeat: Sends a heartbeat. None if the activity's heartbeats cannot be followed: then the attempt leaves no
            mark, and proves nothing.

    Attributes:
        info: The info without our mark, for the activity to see.
    """

    def __init__(self, info: activity.Info, heartbeat: Callable[..., None] | None) -> None:
        self._began = time.monotonic()  # noqa: TID251 - in an activity
        self._heartbeat = heartbeat
        # True iff nothing but the failing call can have taken effect so far.
        self._is_definite = heartbeat is not None and earlier_attempts_are_definite(info)
        self._has_left_mark = False
        details = without_mark(info.heartbeat_details)
        has_mark = details is not info.heartbeat_details
        self.info = dataclasses.replace(info, heartbeat_details=details) if has_mark else info
        if has_mark and not self._is_definite:
            # A stale mark. After an operator's reset, attempts are counted from 1 again, so a later attempt could have
            # the mark's number.
            with suppress(Exception):
                self._send(*details)

    def heartbeat(self, *details: Any) -> None:
        """Send a heartbeat of the activity. Its details are progress."""
        # `classify_errors` inside the plugin sends its own mark, which is not progress of the activity.
        details = tuple(without_mark(details))
        if details:
            self._is_definite = False
        self._has_left_mark = False
        self._send(*details)

    def settle(self, failure: Exception) -> Exception:
        """Return the failure that ends the attempt. Its mark says what is known about all attempts.

        Raise it without `from`; it already has its cause.
        """
        if not isinstance(failure, ActivityFailure):
            return failure
        proves = self._is_definite and failure.kind.effect == "none" and not failure.is_doubtful
        delay = failure.next_retry_delay
        failure = restated(
            failure,
            effect="none" if proves else "unknown",
            retry_after=delay and min(delay, LONGEST_DELAY),
            non_retryable=failure.non_retryable or (delay is not None and not self._leaves_time_after(delay)),
        )
        if proves and not failure.non_retryable and not self.info.is_local:
            self._has_left_mark = True
            # If the mark cannot be sent, the next attempt proves nothing, which is safe. This failure matters more.
            with suppress(Exception):
                self._send(heartbeat_mark(self.info.attempt))
        return failure

    def goes_on(self) -> None:
        """Take the mark back: something caught the failure, and called the activity's function again."""
        if self._has_left_mark:
            self._has_left_mark = False
            self._send()

    def _send(self, *details: Any) -> None:
        if self._heartbeat is not None:
            self._heartbeat(*details)

    def _leaves_time_after(self, delay: timedelta) -> bool:
        """Tell whether a full attempt fits between the delay and schedule-to-close.

        If schedule-to-close cuts an attempt off, the attempt ends in a timeout, which hides the failure and proves
        nothing.
        """
        total, one = self.info.schedule_to_close_timeout, self.info.start_to_close_timeout
        if not total:
            return True
        # On the server's clock. This machine's clock may differ (and does under time skipping).
        now = self.info.started_time + timedelta(seconds=time.monotonic() - self._began)  # noqa: TID251
        left = max(self.info.scheduled_time + total - now, timedelta(0))
        # The server shortens start-to-close to schedule-to-close. Then only a first attempt is ever a full one.
        reserved = left / 2 if not one or one >= total else one
        return delay <= left - reserved


def enter_attempt(definition: Any) -> Attempt | None:
    """Return the running attempt of an activity, for a decorator; None for a function that is not the running activity.

    Without the plugin, only the SDK's own context can hide the mark and show which details the activity sends.

    Args:
        definition: The SDK's definition of the decorated activity.
    """
    if not activity.in_activity():
        return None  # called by hand, in a test
    info = activity.info()
    if definition is None or getattr(definition, "name", None) not in (None, info.activity_type):
        return None  # a helper: the activity may catch what the helper raises, and go on
    # The context is private to the SDK. If the SDK has changed, the attempt cannot be followed.
    current = getattr(getattr(activity, "_Context", None), "current", None)
    context: Any = current() if callable(current) else None
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
