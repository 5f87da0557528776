"""Activity options that say what they are for.

    await saga.execute_activity(charge, order, compensation=refund, **presets.standard())

Each preset sets the three timeouts and the retry policy, `None` included, so that one laid over another inherits
nothing. A start-to-close timeout is 30 s: longer, by 5 s at least, than the timeout of the client inside the activity,
since a client's own error says what happened and a start-to-close timeout does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from temporalio import workflow
from temporalio.common import RetryPolicy
from typing_extensions import TypedDict, Unpack

__all__ = ["Preset", "PresetOptions", "compensation", "forward_only", "standard"]


class PresetOptions(TypedDict, total=False, closed=True):
    """The part of `workflow.ActivityConfig` that a preset speaks of.

    Narrow on purpose: `**standard(), summary="..."` would be an error to type checkers if it could hold a summary.
    """

    schedule_to_close_timeout: timedelta | None
    schedule_to_start_timeout: timedelta | None
    start_to_close_timeout: timedelta | None
    retry_policy: RetryPolicy | None


@dataclass(frozen=True)
class Preset:
    """Activity options by name: call it for the options, with changes if any.

    Attributes:
        initial_interval: The wait before the first retry.
        maximum_interval: The longest wait; waits double until then.
        maximum_attempts: How many attempts; 0 is no limit (Temporal's own meaning).
        schedule_to_close_timeout: The time for all attempts together; None is no limit.
        start_to_close_timeout: The time for one attempt.
    """

    initial_interval: timedelta
    maximum_interval: timedelta
    maximum_attempts: int
    schedule_to_close_timeout: timedelta | None
    start_to_close_timeout: timedelta = timedelta(seconds=30)

    @property
    def policy(self) -> RetryPolicy:
        """The retry policy."""
        return RetryPolicy(
            initial_interval=self.initial_interval,
            backoff_coefficient=2.0,
            maximum_interval=self.maximum_interval,
            maximum_attempts=self.maximum_attempts,
        )

    def __call__(self, **changes: Unpack[PresetOptions]) -> PresetOptions:
        """Return the options, to be given to an activity call with `**`.

        Args:
            changes: Options that replace the preset's own.
        """
        options: PresetOptions = {
            "schedule_to_close_timeout": self.schedule_to_close_timeout,
            "schedule_to_start_timeout": None,
            "start_to_close_timeout": self.start_to_close_timeout,
            "retry_policy": self.policy,
        }
        options.update(changes)
        return options

    def config(self) -> workflow.ActivityConfig:
        """Return the options as the SDK's own type, for code that wants that."""
        return cast("workflow.ActivityConfig", self())


standard: Preset = Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(seconds=30),
    maximum_attempts=8,
    schedule_to_close_timeout=timedelta(minutes=10),
)
"""A forward step against an API that honours the step's key: 8 attempts within 10 minutes."""

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
