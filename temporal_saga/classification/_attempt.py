"""One attempt of an activity: what it knows of the attempts before it, and what it tells the next one.

A workflow sees only the last failure of an activity, and "declined" says nothing of an earlier attempt that may have
taken effect. So a failure says "no effect" only if each earlier attempt is known to have had none. An attempt that ends
so, and will be tried again, leaves our mark in the heartbeat details: the last heartbeat travels with the failure, and
the server gives it to the next attempt.

Heartbeat details of the activity's own are progress: it has done something, and the error of a later call does not say
that nothing took effect. So an activity that has sent details, in this attempt or before, proves nothing.
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
        info: What the SDK says of the attempt.
        heartbeat: Sends a heartbeat; None if nothing can follow the activity's heartbeats. Then the attempt leaves no
            mark, and proves nothing.

    Attributes:
        info: The same without our mark, for the activity to see.
    """

    def __init__(self, info: activity.Info, heartbeat: Callable[..., None] | None) -> None:
        self._began = time.monotonic()  # noqa: TID251 - in an activity
        self._heartbeat = heartbeat
        # True iff nothing can have taken effect so far, but for the call that fails.
        self._is_definite = heartbeat is not None and earlier_attempts_are_definite(info)
        self._has_left_mark = False
        details = without_mark(info.heartbeat_details)
        has_mark = details is not info.heartbeat_details
        self.info = dataclasses.replace(info, heartbeat_details=details) if has_mark else info
        if has_mark and not self._is_definite:
            # A stale mark. An operator's reset counts attempts anew, so a later attempt could have the mark's number.
            with suppress(Exception):
                self._send(*details)

    def heartbeat(self, *details: Any) -> None:
        """Send a heartbeat of the activity's own; details are progress."""
        # `classify_errors` within the plugin sends a mark of its own, which is not the activity's progress.
        details = tuple(without_mark(details))
        if details:
            self._is_definite = False
        self._has_left_mark = False
        self._send(*details)

    def settle(self, failure: Exception) -> Exception:
        """Return the failure with which the attempt ends, with all that is known of the attempts in its mark.

        Raise it without `from`; it already has its cause.
        """
        if not isinstance(failure, ActivityFailure):
            return failure
        proves = self._is_definite and failure.kind.effect == "none"
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
        """Tell whether a full attempt fits between a delay and schedule-to-close.

        An attempt that schedule-to-close cuts off ends in a timeout, which hides the failure, and proves nothing.
        """
        total, one = self.info.schedule_to_close_timeout, self.info.start_to_close_timeout
        if not total:
            return True
        # On the server's clock, which this machine's need not agree with (and does not under time skipping).
        now = self.info.started_time + timedelta(seconds=time.monotonic() - self._began)  # noqa: TID251
        left = max(self.info.scheduled_time + total - now, timedelta(0))
        # The server shortens start-to-close to schedule-to-close. Then only a first attempt is ever a full one.
        reserved = left / 2 if not one or one >= total else one
        return delay <= left - reserved


def enter_attempt(definition: Any) -> Attempt | None:
    """Return the running attempt of an activity, for a decorator; None for a function that is not the running activity.

    Without the plugin only the SDK's own context can hide the mark, and tell which details the activity sends.

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
