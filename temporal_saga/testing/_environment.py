"""Runs one activity by itself, as the activity of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, TypeVar, get_args
from uuid import UUID

from temporalio.testing import ActivityEnvironment
from typing_extensions import ParamSpec

from temporal_saga._identity import business_key, step_id

__all__ = ["step_environment"]

Phase = Literal["do", "undo", "push"]
P = ParamSpec("P")
R = TypeVar("R")


def step_environment(
    step: str, *, phase: Phase = "do", key: str | None = None, attempt: int = 1
) -> ActivityEnvironment:
    """Return an environment that runs one activity by itself, with its `current_step()`.

        receipt = await step_environment("charge").run(charge, order)
        await step_environment("charge", phase="undo").run(refund, order)

    Without a key, the environments of one step belong together: an undo undoes the step of the same name. Each `run` is
    a separate attempt, so a second `run` repeats the first, as a worker does if a reply was lost.

    Args:
        step: The step's name; for an undo, the name of the step that it undoes.
        phase: `do` for a step, `undo` for its compensation, `push` for one pushed by `add_compensation`.
        key: The key of the step, a UUID as `saga.idempotency_key(...)` returns; for a push, its own key.
        attempt: The activity's attempt, from 1.

    Returns:
        The SDK's environment. Change its `info`, `on_heartbeat` and so on as usual.

    Raises:
        TypeError: If the name or the key is not a string, or `attempt` is not an int.
        ValueError: If the phase is not one of these three, the key is not a UUID, or `attempt` is less than 1.
    """
    _check_step(step)
    if phase not in get_args(Phase):
        raise ValueError(f"phase must be 'do', 'undo' or 'push'; got {phase!r}")
    _check_attempt(attempt)
    if key is None:
        key = business_key("step_environment", step, "push" if phase == "push" else "do")
    _check_key(key)
    environment = _StepEnvironment()
    environment.info = dataclasses.replace(
        environment.info,
        activity_id=step_id(step, phase, key),
        attempt=attempt,
        # The SDK's environment has one second, so a longer Retry-After would make a failure final.
        schedule_to_close_timeout=None,
        start_to_close_timeout=timedelta(seconds=30),
    )
    return environment


class _StepEnvironment(ActivityEnvironment):
    def run(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        # A new object, by which the fence tells attempts apart. By the type, `classify_errors` recognizes its activity.
        type_ = _registered_name(fn) or self.info.activity_type
        self.info = dataclasses.replace(self.info, activity_type=type_)
        return super().run(fn, *args, **kwargs)


def _registered_name(function: object) -> str | None:
    definition: Any = getattr(function, "__temporal_activity_definition", None)
    return getattr(definition, "name", None)


def _check_step(step: object) -> None:
    if not isinstance(step, str) or not step:
        name = getattr(step, "__name__", "charge")
        raise TypeError(f"step must be the name of a step, such as {name!r}; got {step!r}")


def _check_key(key: object) -> None:
    if not isinstance(key, str):
        fix = f"str({key!r})" if isinstance(key, UUID) else f"business_key({key!r})"
        raise TypeError(f"key must be a string, such as {fix}; got {key!r}")
    try:
        is_uuid = str(UUID(key)) == key
    except ValueError:
        is_uuid = False
    if not is_uuid:
        raise ValueError(f"key must be a UUID of 36 lower-case characters, such as business_key({key!r}); got {key!r}")


def _check_attempt(attempt: object) -> None:
    if type(attempt) is not int:
        raise TypeError(f"attempt must be an int, such as 2; got {attempt!r}")
    if attempt < 1:
        raise ValueError(f"attempt must be 1 or more; got {attempt}")
