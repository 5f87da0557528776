"""Activity options that say what they are for.

    await saga.execute_activity(charge, order, compensation=refund, **presets.standard())

Each preset sets the three timeouts and the retry policy, including those that are `None`. So a preset laid over another
one inherits nothing from it. The start-to-close timeout is 30 s. Let the client inside the activity time out at least
5 s sooner: the client's own error says what happened, and a start-to-close timeout does not.

`presets.standard.explain()` says what the preset is for, and shows the schedule as a table. The server adds no jitter.
The server checks its timers once a second (`history.timerProcessorMaxTimeShift`), so a shorter wait takes up to a
second (measured on server 1.32).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from inspect import currentframe
from itertools import count, islice
from math import isfinite
from textwrap import wrap
from typing import Any, cast

from temporalio import workflow
from temporalio.common import RetryPolicy
from typing_extensions import TypedDict, Unpack

from ._options import check_duration, check_types

__all__ = [
    "Preset",
    "PresetOptions",
    "at_most_once",
    "compensation",
    "compensation_bounded",
    "conflict",
    "fast",
    "forward_only",
    "llm",
    "no_retry",
    "patient",
    "standard",
    "throttled",
]

_LONGEST = timedelta(days=36_500)  # the server counts a time in nanoseconds, 64 bits of them: 292 years
_MOST_ATTEMPTS = 2**31 - 1  # the server's int32
_WAITS_LOOKED_AT = 1000  # by then a wait that grows by 5 % has reached any maximum
_ROWS_SHOWN = 25


class PresetOptions(TypedDict, total=False, closed=True):
    """The options of `workflow.ActivityConfig` that a preset sets.

    Narrow on purpose: if it could hold a summary, type checkers would reject `**standard(), summary="..."`.
    """

    schedule_to_close_timeout: timedelta | None
    schedule_to_start_timeout: timedelta | None
    start_to_close_timeout: timedelta | None
    retry_policy: RetryPolicy | None


@dataclass(frozen=True)
class Preset:
    """Named activity options. Call the preset to get its options, with your changes if you give any.

    Make your own with `Preset(...)`, or `dataclasses.replace(presets.standard, maximum_attempts=4)`.

    Attributes:
        initial_interval: The wait before the first retry.
        maximum_interval: The longest wait. Waits grow until they reach it.
        maximum_attempts: The number of attempts; 0 means no limit, as in Temporal.
        schedule_to_close_timeout: The time for all attempts together; None means no limit. The server skips a
            retry that would start later.
        start_to_close_timeout: The time for one attempt; None means the time for all of them.
        backoff_coefficient: The factor from one wait to the next.
        non_retryable_error_types: The types of `ApplicationError` that end the retries. A plain exception's type is the
            name of its class; subclasses do not count.
        purpose: What the preset is for, in a sentence for `explain()`.
        key_window: How long the other side remembers an idempotency key. A longer schedule-to-close timeout causes a
            warning, since a retry after the window could take effect again. Stripe remembers keys for a day. None means
            that the other side never forgets, or that the call has no key.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If the options contradict each other, or a number is out of range.
    """

    initial_interval: timedelta
    maximum_interval: timedelta
    maximum_attempts: int
    schedule_to_close_timeout: timedelta | None
    start_to_close_timeout: timedelta | None = timedelta(seconds=30)
    backoff_coefficient: float = 2.0
    non_retryable_error_types: tuple[str, ...] = ()
    purpose: str = ""
    key_window: timedelta | None = timedelta(hours=24)

    def __post_init__(self) -> None:
        # Check before `policy` converts the tuple to a list, and `RetryPolicy` converts the times.
        for name in ("initial_interval", "maximum_interval"):
            check_duration(name, getattr(self, name))
        if isinstance(self.non_retryable_error_types, str):
            raise TypeError(
                f"non_retryable_error_types must be a tuple of names, such as ({self.non_retryable_error_types!r},); "
                f"got {self.non_retryable_error_types!r}"
            )
        if not isinstance(cast("object", self.non_retryable_error_types), (tuple, list)):
            raise TypeError(
                f"non_retryable_error_types must be a tuple of names, or (); got {self.non_retryable_error_types!r}"
            )
        if not isinstance(cast("object", self.purpose), str):
            raise TypeError(f"purpose must be a str, such as 'For our ledger.'; got {self.purpose!r}")
        if self.key_window is not None:
            check_duration("key_window", self.key_window)
            _in_range("key_window", self.key_window)
        _check(self())
        self._warn_past_key_window(self.schedule_to_close_timeout)

    @property
    def policy(self) -> RetryPolicy:
        """The retry policy."""
        return RetryPolicy(
            initial_interval=self.initial_interval,
            backoff_coefficient=self.backoff_coefficient,
            maximum_interval=self.maximum_interval,
            maximum_attempts=self.maximum_attempts,
            non_retryable_error_types=list(self.non_retryable_error_types) or None,
        )

    def __call__(self, **changes: Unpack[PresetOptions]) -> PresetOptions:
        """Return the options. Give them to an activity call with `**`.

        Args:
            changes: Options that replace the preset's own.

        Raises:
            TypeError: If a name is not an option of an activity, or a value has the wrong type.
            ValueError: If the options, with the changes, contradict each other.
        """
        options: PresetOptions = {
            "schedule_to_close_timeout": self.schedule_to_close_timeout,
            "schedule_to_start_timeout": None,
            "start_to_close_timeout": self.start_to_close_timeout,
            "retry_policy": self.policy,
        }
        if changes:
            options.update(changes)
            _check(options)
            self._warn_past_key_window(options.get("schedule_to_close_timeout"))
        return options

    def config(self) -> workflow.ActivityConfig:
        """Return the options as the SDK's own type, for code that needs this type."""
        return cast("workflow.ActivityConfig", self())

    def delays(self) -> Iterator[timedelta]:
        """Return the waits between attempts: `list(presets.standard.delays())`.

        This assumes attempts that fail at once, without a `Retry-After`. With slower attempts or longer waits, fewer
        attempts fit within the schedule-to-close timeout.

        A preset without a limit yields waits forever: use `itertools.islice(presets.compensation.delays(), 10)`.
        """
        wait, elapsed = self.initial_interval, timedelta(0)
        for _ in range(self.maximum_attempts - 1) if self.maximum_attempts else count():
            if self.schedule_to_close_timeout is not None:
                elapsed += wait
                if elapsed > self.schedule_to_close_timeout:
                    return
            yield wait
            # Compare the ratio: the product may be too long for a timedelta.
            grows = self.backoff_coefficient < self.maximum_interval / wait
            wait = min(wait * self.backoff_coefficient, self.maximum_interval) if grows else self.maximum_interval

    def worst_case(self, start_to_close_timeout: timedelta | None = None) -> timedelta | None:
        """Return how long it takes until the last attempt has failed, if each attempt uses its full timeout.

        This does not count the time until a worker picks an attempt up, or a `Retry-After` that is longer than the
        preset's own wait. Only the schedule-to-close timeout limits these.

        Args:
            start_to_close_timeout: The time for one attempt, if it differs from the preset's own.

        Returns:
            None if the retries never end. An upper bound if the waits still grow after a thousand of them.
        """
        if start_to_close_timeout is not None:
            return replace(self, start_to_close_timeout=start_to_close_timeout).worst_case()
        one, total = self.start_to_close_timeout, self.schedule_to_close_timeout
        if one is None or (total is None and not self.maximum_attempts):
            return total
        waits, more, later = self._waits()
        try:
            worst = sum(waits, later * (more or 0)) + one * (len(waits) + (more or 0) + 1)
        except OverflowError:
            worst = timedelta.max
        return worst if total is None else min(worst, total)

    def explain(self) -> str:
        """Return the purpose of the preset, and its schedule as a table for a terminal.

        The table has each attempt, the wait before it, and the time elapsed. Repetitive rows are left out.
        """
        waits, more, later = self._waits()
        rows = [("attempt", "wait", "elapsed"), ("1", "", "0s")]
        attempt, wait, elapsed, alike = 1, timedelta(0), timedelta(0), 1
        for attempt, next_wait in enumerate(waits, start=2):
            alike = alike + 1 if next_wait == wait else 1
            wait = next_wait
            elapsed += wait
            if alike <= 2 and len(rows) <= _ROWS_SHOWN:
                rows.append((str(attempt), _text(wait), _text(elapsed)))
        is_exact = not more or later == wait
        if more is not None:
            attempt += more
            try:
                elapsed += later * more
            except OverflowError:
                elapsed = timedelta.max
        shown = int(rows[-1][0])
        if more is None or attempt > shown + 1 or not is_exact:
            rows.append(("...", "", ""))
        if more is not None and attempt > shown and is_exact:
            rows.append((str(attempt), _text(wait), _text(elapsed)))
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

        total = self.schedule_to_close_timeout
        if more is None:
            end = f"Does not give up: a retry every {_text(later)}."
        elif attempt == self.maximum_attempts and (is_exact or total is None):
            end = f"Gives up after attempt {attempt}."
        elif is_exact:
            end = f"Gives up after attempt {attempt}: the next would start after schedule-to-close, "
            end += f"{_text(cast('timedelta', total))}."
        else:
            end = f"Gives up after attempt {attempt}, or sooner: no retry starts after schedule-to-close, "
            end += f"{_text(cast('timedelta', total))}."
        types = ", ".join(self.non_retryable_error_types)
        assumed = "Elapsed is for attempts that fail at once."
        worst = self.worst_case()
        if worst is not None:
            assumed += f" If each lasts as long as it may, it ends after {_text(worst)}."
        for note in (end, f"Not retried: {types}." if types else "", assumed):
            lines.extend(wrap(note, 80, subsequent_indent="  "))
        return "\n".join([*wrap(self.purpose, 80), *lines])

    def _waits(self) -> tuple[list[timedelta], int | None, timedelta]:
        """Return the first waits, the number of waits after these, and the length of each of those.

        The number is None if the waits never end. If the waits still grow, the number and the length are upper bounds.
        """
        waits = list(islice(self.delays(), _WAITS_LOOKED_AT))
        if len(waits) < _WAITS_LOOKED_AT:
            return waits, 0, waits[-1] if waits else timedelta(0)
        limits: list[int] = []
        if self.maximum_attempts:
            limits.append(self.maximum_attempts - 1 - len(waits))
        if self.schedule_to_close_timeout is not None:
            limits.append((self.schedule_to_close_timeout - sum(waits, timedelta(0))) // waits[-1])
        is_steady = waits[-1] == waits[-2]  # each wait follows from the one before it
        return waits, min(limits, default=None), waits[-1] if is_steady else self.maximum_interval

    def _warn_past_key_window(self, total: timedelta | None) -> None:
        if total is None or self.key_window is None or total <= self.key_window:
            return
        frame = currentframe()
        while frame is not None and frame.f_globals.get("__name__") in (__name__, "dataclasses"):
            frame = frame.f_back
        # The sandbox imports this module, and the caller's, again for each run. So the record of lines that have been
        # warned of must be in a module that the sandbox passes through.
        warnings.warn_explicit(
            f"schedule_to_close_timeout, {_text(total)}, goes past key_window, {_text(self.key_window)}: by then the "
            "provider may have forgotten the key (Stripe after 24h), and a retry takes effect again. Lower the first, "
            "or say how long yours keeps keys: dataclasses.replace(preset, key_window=timedelta(days=30)), or None for "
            "a key that is kept forever, or no key",
            UserWarning,
            frame.f_code.co_filename if frame else __file__,
            frame.f_lineno if frame else 0,
            registry=cast("Any", warnings).onceregistry,
        )


def _check(options: PresetOptions) -> None:
    """Raise if options contradict each other, or if the server would read them differently."""
    config = cast("workflow.ActivityConfig", options)  # at run time the changes may be any options of an activity
    policy = options.get("retry_policy")
    if isinstance(policy, RetryPolicy):
        _check_types_of(policy)
    check_types(config, "activity")
    total = _in_range("schedule_to_close_timeout", options.get("schedule_to_close_timeout"))
    queued = _in_range("schedule_to_start_timeout", options.get("schedule_to_start_timeout"))
    one = _in_range("start_to_close_timeout", options.get("start_to_close_timeout"))
    if total is None and one is None:
        raise ValueError("nothing would notice a dead worker: set start_to_close_timeout, or schedule_to_close_timeout")
    beat = _in_range("heartbeat_timeout", config.get("heartbeat_timeout"))
    limit = total if one is None else one
    if beat is not None and limit is not None and beat > limit:
        name = "schedule_to_close_timeout" if one is None else "start_to_close_timeout"
        raise ValueError(
            f"heartbeat_timeout, {_text(beat)}, is longer than {name}, {_text(limit)}, which ends the attempt first: "
            "lower the first, or raise the second"
        )
    # The server would silently shorten both to schedule-to-close.
    for name, part in (("start_to_close_timeout", one), ("schedule_to_start_timeout", queued)):
        if total is not None and part is not None and part > total:
            raise ValueError(
                f"schedule_to_close_timeout, {_text(total)}, is shorter than {name}, {_text(part)}, of one attempt: "
                "raise the first, or lower the second"
            )
    if policy is None:
        return
    if policy.maximum_attempts < 0:
        raise ValueError(f"maximum_attempts must be 0 (no limit), 1 (no retry) or more; got {policy.maximum_attempts}")
    if policy.backoff_coefficient < 1:
        raise ValueError(
            f"backoff_coefficient must be 1 (waits that do not grow) or more; got {policy.backoff_coefficient}"
        )
    initial = _in_range("initial_interval", policy.initial_interval)
    longest = _in_range("maximum_interval", policy.maximum_interval)
    if initial is not None and longest is not None and longest < initial:
        raise ValueError(
            f"maximum_interval, {_text(longest)}, is shorter than initial_interval, {_text(initial)}: "
            "raise the first, or lower the second"
        )
    if policy.maximum_attempts != 1 and initial is not None and total is not None and initial > total:
        raise ValueError(
            f"no retry would start within schedule_to_close_timeout, {_text(total)}: raise it, lower initial_interval, "
            f"{_text(initial)}, or set maximum_attempts=1"
        )
    for each in policy.non_retryable_error_types or ():
        kind = each.removeprefix("TemporalTimeout:")
        # The server fails the workflow task for an unknown name. It never retries the other two timeouts.
        if kind != each and kind not in ("StartToClose", "Heartbeat"):
            raise ValueError(
                "of the timeouts, non_retryable_error_types may list TemporalTimeout:StartToClose and "
                f"TemporalTimeout:Heartbeat; got {each!r}"
            )


def _check_types_of(policy: RetryPolicy) -> None:
    # The SDK encodes some of these values as they are, and the server reads others as something else.
    attempts = cast("object", policy.maximum_attempts)
    if isinstance(attempts, bool) or not isinstance(attempts, int):
        raise TypeError(f"maximum_attempts must be an int, such as 3, or 0 for no limit; got {attempts!r}")
    if attempts > _MOST_ATTEMPTS:
        raise ValueError(f"maximum_attempts must be at most {_MOST_ATTEMPTS}, or 0 for no limit; got {attempts}")
    coefficient = cast("object", policy.backoff_coefficient)
    if isinstance(coefficient, bool) or not isinstance(coefficient, (int, float)):
        raise TypeError(f"backoff_coefficient must be a float, such as 2.0; got {coefficient!r}")
    if not isfinite(coefficient):
        raise ValueError(f"backoff_coefficient must be a finite number, such as 2.0; got {coefficient!r}")
    types = cast("object", policy.non_retryable_error_types)
    if types is not None and (isinstance(types, str) or not isinstance(types, Sequence)):
        names = [types] if isinstance(types, str) else ["ValueError"]
        raise TypeError(f"non_retryable_error_types must be a list of names, such as {names!r}; got {types!r}")


def _in_range(name: str, value: timedelta | None) -> timedelta | None:
    # The server takes zero for "not set", and uses its own default.
    if value is not None and value <= timedelta(0):
        raise ValueError(f"{name} must be longer than zero, or None for no limit; got {value}")
    if value is not None and value > _LONGEST:
        raise ValueError(f"{name} must be at most 100 years, or None for no limit; got {_text(value)}")
    return value


def _text(duration: timedelta) -> str:
    minutes, rest = divmod(duration, timedelta(minutes=1))
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    seconds = f"{rest.total_seconds():g}"
    parts = [f"{value}{unit}" for value, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")) if value]
    return " ".join(part for part in parts if part != "0s") or "0s"


no_retry: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(seconds=1),
    maximum_attempts=1,
    schedule_to_close_timeout=None,
    purpose="For a call that must not be tried twice, whatever its error.",
)
"""A call that must not be tried twice, whatever its error: 1 attempt."""

at_most_once: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(seconds=10),
    maximum_attempts=5,
    schedule_to_close_timeout=timedelta(minutes=5),
    non_retryable_error_types=(
        "Ambiguous",
        "InProgress",
        "CancelledError",
        "FutureCancelledError",
        "SystemExit",
        "BrokenProcessPool",
        "WorkerShutdown",
        "ActivityPause",
        "ActivityReset",
        "TemporalTimeout:StartToClose",
        "TemporalTimeout:Heartbeat",
    ),
    purpose="For an API without keys: no retry after an attempt that may have had its effect.",
)
"""An API without keys: 5 attempts within 5 minutes, but none after an attempt that may have had its effect.

It does not retry after a lost worker, a worker that shuts down, an attempt that an operator has paused or reset, or the
errors `Ambiguous` and `InProgress`. It does retry an error that nothing has classified, so a read timeout may charge
twice. Use it with `classify_errors`, which turns such errors into `Ambiguous`, or raise `errors.Ambiguous` yourself.
"""

fast: Preset = Preset(
    initial_interval=timedelta(milliseconds=200),
    maximum_interval=timedelta(seconds=5),
    maximum_attempts=6,
    schedule_to_close_timeout=timedelta(minutes=2),
    start_to_close_timeout=timedelta(seconds=5),
    purpose="For a call within the cluster that may be repeated.",
)
"""A call within the cluster that may be repeated: 6 attempts within 2 minutes, 5 s each."""

conflict: Preset = Preset(
    initial_interval=timedelta(milliseconds=50),
    maximum_interval=timedelta(seconds=2),
    maximum_attempts=8,
    schedule_to_close_timeout=timedelta(minutes=1),
    start_to_close_timeout=timedelta(seconds=5),
    purpose="For a deadlock in a database. Not for HTTP 409: that is REJECTED, and final.",
)
"""A database transaction that may deadlock or fail to serialize: 8 attempts within a minute, 5 s each.

Not for HTTP 409, which is `REJECTED`: another attempt would be refused too.
"""

standard: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(seconds=30),
    maximum_attempts=8,
    schedule_to_close_timeout=timedelta(minutes=10),
    purpose="For an API that honors the step's key. It honors Retry-After.",
)
"""A step that calls an API that honors the step's key: 8 attempts within 10 minutes.

It waits as long as a `Retry-After` says. If no full attempt fits after that wait, the step fails at once.
"""

throttled: Preset = Preset(
    initial_interval=timedelta(seconds=5),
    maximum_interval=timedelta(minutes=2),
    maximum_attempts=10,
    schedule_to_close_timeout=timedelta(minutes=30),
    purpose="For an API with a quota that sends no Retry-After; else use `standard`.",
)
"""An API with a quota that sends no `Retry-After`, or a long one: 10 attempts within 30 minutes."""

patient: Preset = Preset(
    initial_interval=timedelta(seconds=5),
    maximum_interval=timedelta(minutes=5),
    maximum_attempts=0,
    schedule_to_close_timeout=timedelta(hours=18),
    purpose="For a call that may wait for the end of an outage.",
)
"""Waits out an outage: retries for 18 hours. A provider that forgets keys after 24 hours still knows this one."""

llm: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=2),
    maximum_attempts=50,
    schedule_to_close_timeout=None,
    start_to_close_timeout=timedelta(minutes=10),
    non_retryable_error_types=("InvalidInput", "AuthenticationError"),
    purpose="For a model that is often busy. Switch the client's own retries off.",
)
"""A model that is slow and often busy: 50 attempts, 10 minutes each. Switch the client's own retries off."""

forward_only: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=2),
    maximum_attempts=0,
    schedule_to_close_timeout=None,
    purpose="For a step after `pivot()`: it must complete.",
)
"""A step after the point of no return: it must complete, so it is retried forever."""

compensation: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=1),
    maximum_attempts=0,
    schedule_to_close_timeout=None,
    purpose="For an undo: it must complete. A saga's default.",
)
"""An undo: it must complete, so it is retried forever. A non-retryable error still ends it."""

compensation_bounded: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=1),
    maximum_attempts=60,
    schedule_to_close_timeout=timedelta(hours=2),
    purpose="For an undo that a person looks at if it gives up.",
)
"""An undo that gives up, so that a person can look at it: 60 attempts within 2 hours."""
