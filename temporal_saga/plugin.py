# pyright: reportPrivateUsage=false
"""A worker and client plugin: the sandbox, and the close of a run.

    client = await Client.connect("localhost:7233", plugins=[SagaPlugin()])

Two ways to close a run lie outside every scope in it: an exception that leaves a signal handler closes it at once, and
a main method that ends, or is cancelled, closes it under the sagas that handlers opened. With the plugin the run waits
until its open sagas have been cancelled and unwound. A cancel of the workflow that comes after a pivot is held until
that saga has ended, wherever the main method waits. It registers no activity and no workflow.

With `classify=` it does for each activity of the worker what `classify_errors` does for one.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, cast

from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception
from temporalio.plugin import SimplePlugin
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteWorkflowInput,
    HandleSignalInput,
    HandleUpdateInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowRunner,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from ._outcome import saga_failure
from ._report import Registry
from ._saga import UNWOUND, Saga, guarded
from ._unwind import probe_eviction
from .classification import Profile, checked_profile
from .classification._interceptor import ClassifyErrors
from .errors import CompensationError

__all__ = ["SagaPlugin"]


class SagaPlugin(SimplePlugin):
    """Give it to the client, which hands it on to its workers, or to a worker or a `Replayer`; not to both.

    Args:
        classify: Whether the exceptions of each activity become the errors that say what they mean; a profile for a
            worker that calls one provider. See `classification`.
    """

    def __init__(self, *, classify: bool | Profile = False) -> None:
        profile = checked_profile(None if classify is True else classify) if classify else None
        cast(Any, super()).__init__(
            "temporal_saga.SagaPlugin", interceptors=[_SagaInterceptor(profile)], workflow_runner=_pass_through
        )


def _pass_through(runner: WorkflowRunner | None) -> WorkflowRunner:
    if runner is None:
        raise ValueError("SagaPlugin needs a workflow runner to configure")
    if isinstance(runner, SandboxedWorkflowRunner):
        restrictions = runner.restrictions.with_passthrough_modules("temporal_saga")
        return dataclasses.replace(runner, restrictions=restrictions)
    return runner


class _SagaInterceptor(Interceptor):
    def __init__(self, profile: Profile | None) -> None:
        self._profile = profile

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return next if self._profile is None else ClassifyErrors(next, self._profile)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _HoldClose


class _HoldClose(WorkflowInboundInterceptor):
    """Holds the close of one run until its open sagas have ended."""

    def __init__(self, next: WorkflowInboundInterceptor) -> None:
        super().__init__(next)
        self._signal_error: BaseException | None = None
        self._cut_short: CompensationError | None = None
        self._main_has_ended = False

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        guarded.set(True)
        results: list[Any] = []
        outcome: BaseException | None = None

        async def run() -> None:
            gate.open()
            # Kept here: a task that returns while a cancel waits for its next await counts as cancelled.
            results.append(await self.next.execute_workflow(input))

        # In a task of its own: the workflow's cancel comes to the gate then, where it can be held.
        main = asyncio.create_task(run(), name="main method")
        gate = _Gate(main)
        try:
            await gate
            if not results:
                main.result()
        except workflow.ContinueAsNewError as error:
            outcome = error
        except BaseException as error:
            outcome = saga_failure(error)
            if outcome is None:
                raise  # a bug fails the task, and eviction leaves no trace
            if isinstance(outcome, asyncio.CancelledError):
                probe_eviction()
        self._main_has_ended = True
        await _end_sagas()
        if self._cut_short is not None and outcome is not None and is_cancelled_exception(outcome):
            outcome = self._cut_short  # Cancelled would say that all has been undone
        outcome = self._signal_error or outcome  # which came first, and cancelled the main method's saga
        if outcome is not None:
            raise outcome
        return results[0]

    async def handle_signal(self, input: HandleSignalInput) -> None:
        guarded.set(True)
        try:
            await super().handle_signal(input)
            return
        except workflow.ContinueAsNewError:
            registry = Registry.find()
            if not any(saga._holds_compensations() for saga in (registry.open_sagas() if registry else ())):
                raise
            failure: BaseException = RuntimeError(
                "continue_as_new in a signal handler would drop the compensations of an open saga: "
                "record the wish, and let the main method act on it"
            )
            if not workflow.is_failure_exception(failure):
                raise failure from None
        except (Exception, asyncio.CancelledError) as error:
            cause = saga_failure(error)
            if cause is None:
                raise
            if isinstance(cause, asyncio.CancelledError):
                probe_eviction()
            failure = cause
        # Cut short, by the end of the main method or by a saga that has unwound, it has no error of its own; and a run
        # closes once.
        if self._main_has_ended or failure.args == (UNWOUND,) or self._signal_error is not None:
            if isinstance(failure, CompensationError):
                self._cut_short = failure
            return
        self._signal_error = failure
        await _end_sagas()
        if not self._main_has_ended:  # else it has closed the run with this error: a run closes once
            raise failure

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        guarded.set(True)
        return await super().handle_update_handler(input)


class _Gate(asyncio.Future[None]):
    """Where the workflow's cancel arrives: done when the main method has ended.

    It goes on to the main method, or to a saga past its pivot that holds it, within the call: a turn of the loop later,
    what came in the same activation would overtake it, and a run begun without the plugin would not replay with it.
    """

    def __init__(self, main: asyncio.Task[None]) -> None:
        super().__init__()
        self._main = main
        self._early: list[Any] | None = []
        main.add_done_callback(lambda _: None if self.done() else self.set_result(None))

    def open(self) -> None:
        """Let the cancels in that came before the main method began: a task cancelled so early never begins."""
        early, self._early = self._early or [], None
        for msg in early:
            self.cancel(msg)

    def cancel(self, msg: Any = None) -> bool:
        """Hand the cancel on."""
        try:
            probe_eviction()
        except BaseException:
            return super().cancel(msg)
        registry = Registry.find()
        sagas = [saga for saga in registry.open_sagas() if saga._owner is self._main] if registry else []
        if self._early is not None:
            self._early.append(msg)
        elif not any(saga._hold_cancel(asyncio.CancelledError()) for saga in sagas):
            self._main.cancel(msg)
        return True


async def _end_sagas() -> None:
    """Cancel the open sagas of other tasks, and wait until each has unwound."""
    registry = Registry.find()
    task = asyncio.current_task()

    def is_other(owner: asyncio.Task[Any] | None) -> bool:
        return owner is not None and owner is not task and not owner.done()

    def open_sagas() -> list[Saga]:
        return [saga for saga in registry.open_sagas() if is_other(saga._owner)] if registry else []

    while sagas := open_sagas():
        for saga in sagas:
            # One that a callback has entered ends with the unwind that runs it, which nothing interrupts.
            # Past its pivot it has to go on to its end.
            if not (saga._is_unwinding or saga._in_unwind or saga._is_past_pivot) and saga._owner is not None:
                saga._owner.cancel()
        try:
            await workflow.wait_condition(lambda: not open_sagas())
        except asyncio.CancelledError:
            probe_eviction()
