"""The one module of the kit that knows the library's insides: reports, owners, ids of runs.

Everything else here goes by what any workflow does: its commands, and the ids of its activities.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any, cast
from uuid import NAMESPACE_OID, uuid5

from temporalio import exceptions, worker, workflow
from temporalio.api.failure.v1 import Failure

from temporal_saga import SagaReport
from temporal_saga._compensation import Call, Callback
from temporal_saga._parking import MEMO as PARKED_MEMO
from temporal_saga._parking import UPDATE as RESOLVE
from temporal_saga._run import QUERY, Run
from temporal_saga._seed import seed_of

from ._converter import Converter
from ._sdk import Instance

__all__ = [
    "CANCEL_SCOPE",
    "PARKED_MEMO",
    "RESOLVE",
    "CancelScopes",
    "is_in_open_scope",
    "is_undone_on_demand",
    "keys_undone_with_own_input",
    "reports_of",
    "run_id_and_seed",
]

CANCEL_SCOPE = "temporal_saga_testing_cancel_scope"


@lru_cache
def run_id_and_seed(workflow_id: str, number: int) -> tuple[str, int]:
    """Return the id of a workflow's run, the same in each simulation, and the seed that core derives from the id.

    The library tells by the seed whether a run was reset, so the seed has to be core's.
    """
    run_id = str(uuid5(NAMESPACE_OID, f"{workflow_id}/{number}"))
    return run_id, seed_of(run_id)


def reports_of(instance: Instance, converter: Converter) -> list[SagaReport]:
    """Return the report of each saga that a run has entered."""
    if not instance.is_sandboxed:
        # Called directly, which is quicker than a query. A workflow may have a handler of that name itself.
        handler = instance.query_handler(QUERY)
        return handler() if isinstance(handler, Run) else []
    answer = instance.query(QUERY, ())
    if isinstance(answer, Failure):
        return []  # no saga was entered
    return cast("list[SagaReport]", converter.decode([answer], [list[SagaReport]])[0])


def keys_undone_with_own_input(instance: Instance) -> set[str]:
    """Return the keys of the steps whose undo gets what the step got; none are known from inside of a sandbox."""
    run = None if instance.is_sandboxed else instance.query_handler(QUERY)
    if not isinstance(run, Run):
        return set()
    steps = [step for saga in run.sagas for step in cast(Any, saga).shared.steps]
    return {
        step.key
        for step in steps
        if step.compensation is not None and not isinstance(step.compensation, (Call, Callback))
    }


def is_in_open_scope(instance: Instance) -> bool:
    """Tell whether a saga of the run is open and does not unwind; no answer, hence False, from inside of a sandbox."""
    if instance.is_sandboxed:
        return False
    run = instance.query_handler(QUERY)
    return isinstance(run, Run) and any(not saga.ends_by_itself for saga in run.open_sagas)


def is_undone_on_demand(instance: Instance, converter: Converter, key: str) -> bool:
    """Tell whether the undo of that step begins while its saga is open: `saga.undo()`, or the unwind of a savepoint."""
    if instance.is_sandboxed:
        reports = reports_of(instance, converter)
        return any(report.state == "OPEN" and any(step.key == key for step in report.steps) for report in reports)
    run = instance.query_handler(QUERY)
    sagas = run.open_sagas if isinstance(run, Run) else ()
    return any(
        _is_undone_singly(saga) and any(step.key == key for step in saga.shared.steps) for saga in cast(Any, sagas)
    )


def _is_undone_singly(scope: Any) -> bool:
    # An unwind that has begun since waits for such an undo before it begins its own.
    return not scope.ends_by_itself or bool(scope.undos) or any(map(_is_undone_singly, scope.savepoints))


def _innermost_owner() -> asyncio.Task[Any] | None:
    """Return the task inside the innermost open saga; None if no saga is open."""
    run = Run.find()
    owners = [saga.owner for saga in run.open_sagas] if run else []
    return next((owner for owner in reversed(owners) if not owner.done()), None)


class CancelScopes(worker.Interceptor):
    """Adds a signal that cancels the task inside of the innermost open saga: a signal, so that replays repeat it."""

    def workflow_interceptor_class(
        self, input: worker.WorkflowInterceptorClassInput
    ) -> type[worker.WorkflowInboundInterceptor]:
        """Return the interceptor of a workflow."""
        return _CancelScope


class _CancelScope(worker.WorkflowInboundInterceptor):
    async def execute_workflow(self, input: worker.ExecuteWorkflowInput) -> Any:
        main = asyncio.current_task()
        cancelled: list[Any] = []

        def cancel_scope() -> None:
            task = _innermost_owner()
            if task is None and Run.find() is None:
                task = main  # by hand, without any saga
            if task is not None:
                cancelled.append(task)
                task.cancel()

        cast(Any, workflow).set_signal_handler(CANCEL_SCOPE, cancel_scope)
        try:
            return await self.next.execute_workflow(input)
        except asyncio.CancelledError:
            if main not in cancelled or workflow.cancellation_reason() is not None:
                raise
        # `asyncio.timeout` and its like turn the cancel that they cause into an error of their own.
        raise exceptions.ApplicationError("the scope was cancelled", type="SimulatedTimeout", non_retryable=True)
