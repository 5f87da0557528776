"""Activity options that say what they are for.

    await saga.execute_activity(charge, order, compensation=refund, **presets.standard())

Each preset sets the three timeouts and the retry policy, `None` included, so a preset laid over another inherits
nothing. The start-to-close timeout is 30 s. Let the client inside the activity time out at least 5 s sooner: the
client's own error says what happened, and a start-to-close timeout does not.

`presets.standard.explain()` shows the schedule as a table. The server adds no jitter. It looks at its timers once a
second (`history.timerProcessorMaxTimeShift`), so a shorter wait takes up to a second: measured on server 1.32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from textwrap import wrap
from typing import cast

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


class PresetOptions(TypedDict, total=False, closed=True):
    """The options of `workflow.ActivityConfig` that a preset sets.

    Narrow on purpose: `**standard(), summary="..."` would be an error to type checkers if it could hold a summary.
    """

    schedule_to_close_timeout: timedelta | None
    schedule_to_start_timeout: timedelta | None
    start_to_close_timeout: timedelta | None
    retry_policy: RetryPolicy | None


@dataclass(frozen=True)
class Preset:
    """Activity options under a name: call the preset for its options, with changes if any.

    Make your own with `Preset(...)`, or `dataclasses.replace(presets.standard, maximum_attempts=4)`.

    Attributes:
        initial_interval: The wait before the first retry.
        maximum_interval: The longest wait; waits grow until then.
        maximum_attempts: How many attempts; 0 is no limit (Temporal's own meaning).
        schedule_to_close_timeout: The time for all attempts together; None means no limit. The server skips a
            retry that would start later.
        start_to_close_timeout: The time for one attempt; None is as long as all of them together.
        backoff_coefficient: What a wait is multiplied by for the next one.
        non_retryable_error_types: The types of `ApplicationError` that end the retries. A plain exception's type is the
            name of its class; subclasses do not count.

    Raises:
        TypeError: If a time is not a timedelta, or an error type is not a name.
        ValueError: If the options contradict each other.
    """

    initial_interval: timedelta
    maximum_interval: timedelta
    maximum_attempts: int
    schedule_to_close_timeout: timedelta | None
    start_to_close_timeout: timedelta | None = timedelta(seconds=30)
    backoff_coefficient: float = 2.0
    non_retryable_error_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Before `policy` would make a list of it, and the policy its own of a time.
        for name in ("initial_interval", "maximum_interval"):
            check_duration(name, getattr(self, name))
        if isinstance(self.non_retryable_error_types, str):
            raise TypeError(
                f"non_retryable_error_types must be a tuple of names, such as ({self.non_retryable_error_types!r},); "
                f"got {self.non_retryable_error_types!r}"
            )
        _check(self())

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
        """Return the options, to be given to an activity call with `**`.

        Args:
            changes: Options that replace the preset's own.

        Raises:
            TypeError: If a name is not an option of an activity, or a value has another type.
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
        return options

    def config(self) -> workflow.ActivityConfig:
        """Return the options as the SDK's own type, for code that wants that."""
        return cast("workflow.ActivityConfig", self())

    def delays(self) -> Iterator[timedelta]:
        """Return the waits between attempts: `list(presets.standard.delays())`.

        This assumes attempts that fail at once, without a `Retry-After`. With slower attempts or longer waits, fewer
        attempts fit within the schedule-to-close timeout.

        A preset without a limit has waits without end: `itertools.islice(presets.compensation.delays(), 10)`.
        """
        wait, elapsed = self.initial_interval, timedelta(0)
        for _ in range(self.maximum_attempts - 1) if self.maximum_attempts else count():
            if self.schedule_to_close_timeout is not None:
                elapsed += wait
                if elapsed > self.schedule_to_close_timeout:
                    return
            yield wait
            wait = min(wait * self.backoff_coefficient, self.maximum_interval)

    def worst_case(self, start_to_close_timeout: timedelta | None = None) -> timedelta | None:
        """Return how long it takes until the last attempt has failed, if each attempt lasts as long as it may.

        The time until a worker takes an attempt up is not counted, nor is a `Retry-After` that is longer than the
        preset's own wait. Only the schedule-to-close timeout limits these.

        Args:
            start_to_close_timeout: The time for one attempt, if it is not the preset's own.

        Returns:
            None if there is no end.
        """
        if start_to_close_timeout is not None:
            return replace(self, start_to_close_timeout=start_to_close_timeout).worst_case()
        one, total = self.start_to_close_timeout, self.schedule_to_close_timeout
        if one is None or (total is None and not self.maximum_attempts):
            return total
        delays = list(self.delays())
        worst = sum(delays, one * (len(delays) + 1))
        return worst if total is None else min(worst, total)

    def explain(self) -> str:
        """Return the schedule as a table for a terminal: each attempt, the wait before it, and the time elapsed."""
        bounded = self.maximum_attempts > 0 or self.schedule_to_close_timeout is not None
        rows = [("attempt", "wait", "elapsed"), ("1", "", "0s")]
        attempt, wait, elapsed, alike = 1, timedelta(0), timedelta(0), 1
        for attempt, next_wait in enumerate(self.delays(), start=2):
            alike = alike + 1 if next_wait == wait else 1
            wait = next_wait
            elapsed += wait
            if alike <= 2:
                rows.append((str(attempt), _text(wait), _text(elapsed)))
            elif not bounded:
                break
        if alike > 3 or not bounded:
            rows.append(("...", "", ""))
        if alike > 2 and bounded:
            rows.append((str(attempt), _text(wait), _text(elapsed)))
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

        if not bounded:
            end = f"Does not give up: a retry every {_text(wait)}."
        elif attempt == self.maximum_attempts:
            end = f"Gives up after attempt {attempt}."
        else:
            total = _text(cast("timedelta", self.schedule_to_close_timeout))
            end = f"Gives up after attempt {attempt}: the next would start after schedule-to-close, {total}."
        types = ", ".join(self.non_retryable_error_types)
        assumed = "Elapsed is for attempts that fail at once."
        worst = self.worst_case()
        if worst is not None:
            assumed += f" If each lasts as long as it may, it ends after {_text(worst)}."
        for note in (end, f"Not retried: {types}." if types else "", assumed):
            lines.extend(wrap(note, 80, subsequent_indent="  "))
        return "\n".join(lines)


def _check(options: PresetOptions) -> None:
    """Raise if options contradict each other, or do not mean to the server what they say."""
    config = cast("workflow.ActivityConfig", options)  # at run time the changes may be any options of an activity
    check_types(config, "activity")
    total = _positive("schedule_to_close_timeout", options.get("schedule_to_close_timeout"))
    queued = _positive("schedule_to_start_timeout", options.get("schedule_to_start_timeout"))
    one = _positive("start_to_close_timeout", options.get("start_to_close_timeout"))
    if total is None and one is None:
        raise ValueError("nothing would notice a dead worker: set start_to_close_timeout, or schedule_to_close_timeout")
    # The server would silently shorten both to schedule-to-close.
    for name, part in (("start_to_close_timeout", one), ("schedule_to_start_timeout", queued)):
        if total is not None and part is not None and part > total:
            raise ValueError(
                f"schedule_to_close_timeout, {_text(total)}, is shorter than {name}, {_text(part)}, of one attempt: "
                "raise the first, or lower the second"
            )
    policy = options.get("retry_policy")
    if policy is None:
        return
    if policy.maximum_attempts < 0:
        raise ValueError(f"maximum_attempts must be 0 (no limit), 1 (no retry) or more; got {policy.maximum_attempts}")
    if policy.backoff_coefficient < 1:
        raise ValueError(
            f"backoff_coefficient must be 1 (waits that do not grow) or more; got {policy.backoff_coefficient}"
        )
    initial = _positive("initial_interval", policy.initial_interval)
    longest = _positive("maximum_interval", policy.maximum_interval)
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
        # The server fails the workflow task for a name that it does not know. It never retries the other two timeouts.
        if kind != each and kind not in ("StartToClose", "Heartbeat"):
            raise ValueError(
                "of the timeouts, non_retryable_error_types may list TemporalTimeout:StartToClose and "
                f"TemporalTimeout:Heartbeat; got {each!r}"
            )


def _positive(name: str, value: timedelta | None) -> timedelta | None:
    # To the server a zero is "not set": it takes its own default.
    if value is not None and value <= timedelta(0):
        raise ValueError(f"{name} must be longer than zero, or None for no limit; got {value}")
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
)
"""An API without keys: 5 attempts within 5 minutes, but none after an attempt that may have had its effect.

It does not retry after a lost worker, a worker that shuts down, an attempt that an operator has paused or reset, and
the errors `Ambiguous` and `InProgress`. It does retry an error that nothing has classified, so a read timeout may
charge twice: use it with `classify_errors`, which turns such errors into `Ambiguous`, or raise `errors.Ambiguous`
yourself.
"""

fast: Preset = Preset(
    initial_interval=timedelta(milliseconds=200),
    maximum_interval=timedelta(seconds=5),
    maximum_attempts=6,
    schedule_to_close_timeout=timedelta(minutes=2),
    start_to_close_timeout=timedelta(seconds=5),
)
"""A call within the cluster that may be repeated: 6 attempts within 2 minutes, 5 s each."""

conflict: Preset = Preset(
    initial_interval=timedelta(milliseconds=50),
    maximum_interval=timedelta(seconds=2),
    maximum_attempts=8,
    schedule_to_close_timeout=timedelta(minutes=1),
    start_to_close_timeout=timedelta(seconds=5),
)
"""A transaction that may deadlock or fail to serialize: 8 attempts within a minute, 5 s each."""

standard: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(seconds=30),
    maximum_attempts=8,
    schedule_to_close_timeout=timedelta(minutes=10),
)
"""A forward step against an API that honors the step's key: 8 attempts within 10 minutes."""

throttled: Preset = Preset(
    initial_interval=timedelta(seconds=5),
    maximum_interval=timedelta(minutes=2),
    maximum_attempts=10,
    schedule_to_close_timeout=timedelta(minutes=30),
)
"""An API with a quota: 10 attempts within 30 minutes. A `Retry-After` may be longer than its waits."""

patient: Preset = Preset(
    initial_interval=timedelta(seconds=5),
    maximum_interval=timedelta(minutes=5),
    maximum_attempts=0,
    schedule_to_close_timeout=timedelta(hours=18),
)
"""Waits out an outage: retried for 18 hours. A provider that forgets keys after 24 hours still knows this one."""

llm: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=2),
    maximum_attempts=50,
    schedule_to_close_timeout=None,
    start_to_close_timeout=timedelta(minutes=10),
    non_retryable_error_types=("InvalidInput", "AuthenticationError"),
)
"""A model that takes its time and is often busy: 50 attempts, 10 minutes each. Switch the client's own retries off."""

forward_only: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=2),
    maximum_attempts=0,
    schedule_to_close_timeout=None,
)
"""After the point of no return: the step must complete, so it is retried without end."""

compensation: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=1),
    maximum_attempts=0,
    schedule_to_close_timeout=None,
)
"""An undo: it must complete, so it is retried without end. A non-retryable error still ends it."""

compensation_bounded: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=1),
    maximum_attempts=60,
    schedule_to_close_timeout=timedelta(hours=2),
)
"""An undo that gives up, so that a person can look at it: 60 attempts within 2 hours."""
