"""Giving a saga away as data: through continue-as-new, or from a child workflow into its parent."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow

from ._compensation import Callback
from ._scope import Scope, State
from ._state import VERSION, WARN_BYTES, SagaState, write_steps
from .errors import SagaStateTooLarge


def detach(scope: Scope, max_bytes: int) -> SagaState:
    """Return what is armed in a saga as data, and give it up here."""
    shared = scope.shared
    if scope.parent is not None or scope.savepoints:
        raise shared.refuse("detach() in a savepoint: leave the savepoint first, so that it ends well or badly")
    if scope.is_busy:
        raise shared.refuse("detach() with a step in flight: await every step first")
    if never := scope.stack.never_awaited():
        raise shared.refuse(f"{', '.join(never)} was called and never awaited: await each call")
    if callbacks := [
        step.name for step in (*scope.stack.armed, *scope.stack.failed) if isinstance(step.compensation, Callback)
    ]:
        raise shared.refuse(
            f"a callback is code and cannot be detached ({', '.join(callbacks)}): push an activity instead"
        )
    if shared.misuse is not None:
        raise shared.misuse
    state = _state_of(scope)
    if state.size > max_bytes:
        raise SagaStateTooLarge(
            f"the state of saga {shared.name!r} has {state.size:,} bytes, more than max_bytes={max_bytes:,}: give the "
            "compensations less data, such as an id, or end the saga earlier"
        )
    if state.size > WARN_BYTES:
        workflow.logger.warning(
            "The state of saga %s has %d bytes; detach() refuses %d", shared.name, state.size, max_bytes
        )
    if shared.pivot.held is not None:
        scope.cancels.deliver()
    if scope.cancels.expired:
        scope.cancels.others()
    scope.stack.give()
    scope.close(State.DETACHED)
    return state


def _state_of(scope: Scope) -> SagaState:
    shared, expires_at = scope.shared, scope.cancels.expires_at
    options: list[dict[str, Any]] = []
    return SagaState(
        version=VERSION,
        name=shared.name,
        ordinal=shared.ordinal,
        anchor=shared.anchor,
        ticks=shared.ticks,
        counts={step: uses.count for step, uses in shared.uses.items() if uses.count},
        keyed={step: list(uses.keys) for step, uses in shared.uses.items() if uses.keys},
        past_pivot=shared.pivot.is_passed,
        deadline=None if expires_at is None else expires_at - asyncio.get_running_loop().time(),
        run_id=shared.info.original_execution_run_id,
        repeats=shared.may_repeat(),
        steps=write_steps(scope.stack.armed, scope.options.compensation, options),
        options=options,
        failed=write_steps(scope.stack.failed, scope.options.compensation, options),
        cancelled=shared.pivot.is_holding_a_cancel(),
    )
