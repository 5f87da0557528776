"""Entering a saga."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow

from ._cancels import Pivot
from ._run import Run, in_main_method
from ._scope import Scope, undoing
from ._shared import Shared
from ._state import SagaState
from ._typing import Options


def enter(name: str, options: Options, deadline: timedelta | None, state: SagaState | None) -> Scope:
    """Enter a saga in the current task."""
    if not workflow.in_workflow():
        raise RuntimeError("a saga was entered outside a workflow: enter it in the method with @workflow.run")
    run = Run.current()
    if state is not None and (misuse := run.in_use(state)):
        raise RuntimeError(misuse)
    if options.parks_undos:
        run.parking.check_name_is_free()
    pivot = Pivot(run, _main_task(name, run))
    scope = Scope(Shared(run, name, options, pivot, state), None)
    seconds = None if deadline is None else deadline.total_seconds()
    scope.is_in_callback = any(not each.is_over for each in undoing.get())
    if state is not None:
        scope.stack.join(state, ())
        seconds = state.deadline
        if state.past_pivot:
            pivot.pass_()
        if state.cancelled:
            pivot.held = asyncio.CancelledError()
    run.sagas.append(scope)
    run.open_sagas.append(scope)
    if seconds is not None and not pivot.is_passed:
        scope.cancels.set_deadline(seconds)
    return scope


def _main_task(name: str, run: Run) -> asyncio.Task[Any] | None:
    """Return the current task, if the workflow's cancel may have to wait for a saga that the task enters.

    With the plugin that is any task of the main method. Without the plugin only the main method's own task is known to
    get that cancel. The SDK names that task "run (...)", and the tasks of handlers "signal: ..." and "update: ..."
    (`_apply_do_update`, `_process_signal_job`).
    """
    task = asyncio.current_task()
    assert task is not None
    if any(saga.owner is task for saga in run.open_sagas):
        workflow.logger.warning(
            "Saga %s is entered inside another saga and independent of it: if it ends well, its effects are final. "
            "For a part that is undone with the outer saga, use saga.savepoint()",
            name,
        )
    if run.gate is not None:
        return task if in_main_method.get() else None
    task_name = task.get_name()
    if task_name.startswith("run "):
        in_main_method.set(True)
        return task
    in_handler = task_name.startswith(("signal: ", "update: ")) or workflow.current_update_info() is not None
    in_main_method.set(not in_handler)
    if in_handler:
        workflow.logger.warning(
            "Saga %s is entered in a handler: the run may close before the saga has ended. "
            "Give the worker's client temporal_saga.plugin.SagaPlugin()",
            name,
        )
    return None
