"""The plugin's part in an activity: does for each activity of a worker what `classify_errors` does for one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ActivityOutboundInterceptor, ExecuteActivityInput

from ._attempt import Attempt
from ._profiles import Profile
from ._translate import translated

__all__ = ["ClassifyErrors"]


class ClassifyErrors(ActivityInboundInterceptor):
    """Wraps one attempt of an activity."""

    def __init__(self, next: ActivityInboundInterceptor, profile: Profile) -> None:
        super().__init__(next)
        self._profile = profile

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        """Follow the activity's heartbeats and info."""
        self._attempt = Attempt(outbound.info(), outbound.heartbeat)
        super().init(_FollowAttempt(outbound, self._attempt))

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        """Run the activity. Raise the error that says what its exception means."""
        if input.executor is not None and not isinstance(input.executor, ThreadPoolExecutor):
            input = dataclasses.replace(input, fn=_InProcess(input.fn, self._profile))
        self._attempt.goes_on()  # an interceptor around this one may call it again
        try:
            # With a process pool, the SDK returns only after all heartbeats of the attempt have arrived here.
            return await super().execute_activity(input)
        except BrokenExecutor:
            raise  # the SDK ends the worker because of it
        except Exception as error:
            failure = self._attempt.settle(translated(error, self._profile))
            if failure is not error:
                raise failure  # noqa: B904  # it has its cause
            raise


class _FollowAttempt(ActivityOutboundInterceptor):
    """Hides our mark from the activity, and sees the details that the activity sends."""

    def __init__(self, next: ActivityOutboundInterceptor, attempt: Attempt) -> None:
        super().__init__(next)
        self._attempt = attempt

    def info(self) -> activity.Info:
        return self._attempt.info

    def heartbeat(self, *details: Any) -> None:
        self._attempt.heartbeat(*details)


@dataclass(frozen=True)
class _InProcess:
    """Translates in the process of the pool. Not every exception of a client survives pickling; ours do."""

    function: Callable[..., Any]
    profile: Profile

    def __call__(self, *args: Any) -> Any:
        try:
            return self.function(*args)
        except Exception as error:
            failure = translated(error, self.profile)
            if failure is not error:
                raise failure  # noqa: B904  # it has its cause
            raise
