# pyright: reportPrivateUsage=false
"""Unwinding a scope: drain what is in flight, then run the compensations, newest first.

    unwind
    ├── drain     cancel the steps in flight, wait until each has ended, note what became of it
    └── run       undo the armed steps, one after another or as they overlapped

It runs in a task that nobody else holds, so that no cancel can reach it; the scope's owner outlasts it. Only eviction
cancels that task: the SDK then cancels every task of the run, which must end without a trace.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from temporalio import workflow

from ._compensation import Callback
from ._identity import step_id
from ._outcome import saga_failure
from ._report import show

if TYPE_CHECKING:
    from ._outcome import StepRecord
    from ._saga import Saga

# The server fails a workflow task that would leave more than 2,000 activities pending (limit.numPendingActivities);
# the rest of the run needs some of them.
_MOST_AT_ONCE = 500

_ROWS = 50  # from here on the table in the UI is not redrawn for each undo

unwinding: ContextVar[tuple[Saga, ...]] = ContextVar("temporal_saga_unwinding", default=())
"""The scopes whose unwind runs the current code: a callback must not wait for them."""


def probe_eviction() -> None:
    """Raise the SDK's own exception if the run is being evicted, where each task gets a plain CancelledError.

    Public calls without an effect: the SDK refuses anything that would change a run which it evicts
    (`_assert_not_read_only`). To take that for a cancel would unwind a saga that is alive elsewhere.
    """
    workflow.set_current_details(workflow.get_current_details())


async def ended(task: asyncio.Future[Any]) -> None:
    """Wait until a task has ended, without taking part in it.

    Never `await task` itself: a cancel would go to the task, and a handle of the SDK's swallows it, so that the waiting
    task would not learn of it. `asyncio.wait([task])` does the same, but is slow, and this is on the way of each step.
    """
    waiter = asyncio.get_running_loop().create_future()

    def wake(_: object) -> None:
        if not waiter.done():
            waiter.set_result(None)

    task.add_done_callback(wake)
    await waiter


async def fail_task(bug: Exception) -> None:
    """Fail the workflow task, whatever would catch `bug` on its way out.

    The SDK evaluates a condition outside of all workflow code, and one that raises fails the activation. It returns
    where the user lets such an exception fail the workflow (`failure_exception_types`): then the saga is to unwind.
    """
    if workflow.is_failure_exception(bug):
        return

    def raise_bug() -> bool:
        raise bug

    while True:
        try:
            await workflow.wait_condition(raise_bug)
        except asyncio.CancelledError:
            probe_eviction()


async def outlast(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until `future` is done, whatever cancels the waiting task; return the last cancel that came meanwhile.

    Not `asyncio.shield`: it orphans the inner task and logs its error.
    """
    kept: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await ended(future)
        except asyncio.CancelledError as cancel:
            probe_eviction()
            kept = cancel
    return kept


async def unwind(scope: Saga, todo: list[StepRecord]) -> None:
    """Drain a scope, then undo `todo`, which may grow while it runs."""
    unwinding.set((*unwinding.get(), scope))
    await _drain(scope)
    todo.sort(key=lambda record: record.place)
    show(scope.name, scope._records)
    if scope._order == "concurrent":
        await _run_overlapping(scope, todo)
    else:
        while todo:
            await _undo(scope, todo.pop())
    show(scope.name, scope._records)


async def _drain(scope: Saga) -> None:
    """Wait until no step of the scope and of its open savepoints is in flight, then take the savepoints' entries over.

    It lasts at most the start-to-close timeout of the slowest step. After the pivot nothing is cancelled.
    """
    while True:
        savepoints = scope._open_savepoints()
        flying = [record for each in (scope, *savepoints) for record in each._in_flight]
        if not scope._is_past_pivot:
            for record in flying:
                record.request_cancel()
        waits: list[asyncio.Future[Any]] = [record.task for record in flying]
        # Not `unwind_task`: what its owner does after it comes first.
        waits += [each._released for each in savepoints if each._released is not None]
        if all(wait.done() for wait in waits):
            break
        await asyncio.wait([wait for wait in waits if not wait.done()])
    for each in (scope, *savepoints):
        each._settle_in_flight()
    for each in reversed(savepoints):  # the inner ones first: through their parent
        each._join_parent()


async def _run_overlapping(scope: Saga, todo: list[StepRecord]) -> None:
    """Undo two at the same time only if their steps overlapped: none may wait that began after another had ended."""
    running: dict[asyncio.Task[None], StepRecord] = {}
    while todo or running:
        newest = max(record.place for record in (*todo, *running.values()))
        first_ended = min((record.ended for record in running.values()), default=newest)
        ready = [record for record in reversed(todo) if record.ended >= newest and record.place <= first_ended]
        ready = ready[: _MOST_AT_ONCE - len(running)]
        chosen = set(ready)
        todo[:] = [record for record in todo if record not in chosen]
        for record in ready:
            running[asyncio.create_task(_undo(scope, record))] = record
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in running if task in done]:
            del running[task]
            task.result()


async def _undo(scope: Saga, record: StepRecord) -> None:
    """Run one compensation, to success or to its failure for good."""
    compensation = record.compensation
    if compensation is None:  # its compensation_from= failed, and fails the workflow
        record.undo_state = "FAILED"
        scope._failed.append(record)
        return
    record.undo_state = "RUNNING"
    if len(scope._records) <= _ROWS:
        show(scope.name, scope._records)
    try:
        if isinstance(compensation, Callback):
            try:
                await compensation.function(*compensation.args, **compensation.kwargs)
            except workflow.ContinueAsNewError as error:
                raise RuntimeError("continue_as_new in a callback of an unwind would drop the rest of it") from error
        else:
            id = step_id(record.name, record.phase, record.key)
            await compensation.start(scope._compensation_options, id, summary=f"undo {record.name}")
    except (Exception, asyncio.CancelledError) as error:
        # One that ends cancelled has failed: an operator cancelled it, or a callback awaited something cancelled.
        if isinstance(error, asyncio.CancelledError):
            probe_eviction()
        if saga_failure(error) is None:
            raise
        record.undo_state = "FAILED"
        scope._failed.append(record)
        workflow.logger.warning(
            "Compensation of step %s of saga %s failed",
            record.name,
            scope.name,
            extra={"saga": scope.name, "step": record.name, "key": record.key},
        )
    else:
        record.undo_state = "DONE"
