"""A worker and client plugin: the sandbox, and the close of a run.

    client = await Client.connect("localhost:7233", plugins=[SagaPlugin()])

Code in a scope cannot prevent two ways to close the run. An exception that leaves a signal handler closes the run at
once. A main method that ends or is cancelled closes the run while sagas of handlers are open. With the plugin, the run
waits until its open sagas have been cancelled and unwound. A cancel of the workflow that comes after a pivot is held
until that saga has ended, wherever the main method waits. The plugin registers no activity and no workflow.

A query can take a run ahead of its history (`_ahead.py`). The plugin then fails the next workflow task, so that the run
is replayed.

With `classify=`, the plugin classifies the errors of each activity of the worker, as `classify_errors` does for one.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, cast

from temporalio import workflow
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.exceptions import is_cancelled_exception
from temporalio.plugin import SimplePlugin
from temporalio.service import RPCError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteWorkflowInput,
    HandleSignalInput,
    HandleUpdateInput,
    Interceptor,
    Worker,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowRunner,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from ._ahead import watching
from ._cancels import Gate, gates
from ._identity import checked_name
from ._outcome import failure_or_raise
from ._run import OpenSaga, Run, in_main_method, search_attribute
from ._scope import UNWOUND
from ._waiting import raise_if_evicted
from .classification import Profile
from .classification._interceptor import ClassifyErrors
from .classification._profiles import checked_profile
from .errors import CompensationError

__all__ = ["SagaPlugin"]


class SagaPlugin(SimplePlugin):
    """Give the plugin to the client, which passes it on to its workers; or to a worker or a `Replayer`. Not to both.

    Args:
        classify: True classifies the exceptions of each activity (see `classification`). A profile does the same for a
            worker that calls one provider.
        search_attribute: The name of a registered search attribute of type Keyword. In the list of workflows it shows
            the sagas that need somebody: UNWINDING, PARKED or INCOMPLETE. It is unset after a good end. None, the
            default, sets nothing. A run that succeeds costs no event. You can switch it on at any time. Before you
            switch it off, let each run that has set it end.
    """

    def __init__(self, *, classify: bool | Profile = False, search_attribute: str | None = None) -> None:
        profile = checked_profile(None if classify is True else classify) if classify else None
        if search_attribute is not None:
            checked_name("search_attribute=", search_attribute, 'search_attribute="SagaState"')
        self._search_attribute = search_attribute
        own = [_SagaInterceptor(profile, search_attribute)]
        cast(Any, super()).__init__("temporal_saga.SagaPlugin", interceptors=own, workflow_runner=_pass_through)

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        """Check that the search attribute is registered, then run the worker.

        Raises:
            RuntimeError: If it is not registered as a Keyword, since each workflow task that sets it would fail. The
                message has the command that registers it. Also if the server does not let this worker ask.
        """
        if self._search_attribute is not None:
            try:
                await _check_search_attribute(worker.client, self._search_attribute)
            except BaseException:
                # The worker has not run, so nothing ends its shutdown, which the exit of `async with worker` waits for.
                # The SDK sets this event itself if its own check fails at the start.
                cast(Any, worker)._shutdown_complete_event.set()
                raise
        await super().run_worker(worker, next)


async def _check_search_attribute(client: Client, name: str) -> None:
    request = ListSearchAttributesRequest(namespace=client.namespace)
    try:
        kind = (await client.operator_service.list_search_attributes(request, retry=True)).custom_attributes.get(name)
    except RPCError as error:
        raise RuntimeError(
            f"the server does not tell whether the search attribute {name!r} is registered ({error.status.name}): let "
            "the credentials of this worker call ListSearchAttributes, or leave search_attribute= out"
        ) from error
    if kind != IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD:
        found = "is not registered" if kind is None else "is registered with another type than Keyword"
        raise RuntimeError(
            f"the search attribute {name!r} {found} in namespace {client.namespace!r}. Register it: temporal operator "
            f"search-attribute create --namespace {client.namespace} --name {name} --type Keyword"
        )


def _pass_through(runner: WorkflowRunner | None) -> WorkflowRunner:
    if runner is None:
        raise ValueError("SagaPlugin needs a workflow runner to configure")
    if isinstance(runner, SandboxedWorkflowRunner):
        restrictions = runner.restrictions.with_passthrough_modules("temporal_saga")
        runner = dataclasses.replace(runner, restrictions=restrictions)
    return watching(runner)


class _SagaInterceptor(Interceptor):
    def __init__(self, profile: Profile | None, search_attribute: str | None) -> None:
        self._profile = profile
        self._search_attribute = search_attribute

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return next if self._profile is None else ClassifyErrors(next, self._profile)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return type("_HoldClose", (_HoldClose,), {"search_attribute": self._search_attribute})


class _HoldClose(WorkflowInboundInterceptor):
    """Holds the close of one run until its open sagas have ended.

    The first to end the run wins, as without the plugin: the main method, or a handler.
    """

    search_attribute: str | None = None

    def __init__(self, next: WorkflowInboundInterceptor) -> None:
        super().__init__(next)
        self._gate = Gate()
        self._main_has_ended = False
        self._handler_error: BaseException | None = None  # the error of the signal handler that ended the run
        self._cut_short: CompensationError | None = None  # the error of a handler's saga that the run's end cut short

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        self._enter(in_main=True)
        arrival = _Arrival(self._gate)
        results: list[Any] = []

        async def run() -> None:
            self._gate.begin(main)
            try:
                # Keep the result here: a task that returns while a cancel waits for its next await counts as cancelled.
                results.append(await self.next.execute_workflow(input))
            finally:
                self._main_has_ended = True
                arrival.main_has_ended()

        # In a task of its own, with the name that the SDK gives, so that the workflow's cancel arrives at the gate.
        main = asyncio.create_task(run(), name="run")
        arrival.main = main
        main.add_done_callback(lambda _: arrival.main_has_ended())  # an eviction may end it before it begins
        await arrival
        outcome: BaseException | None = None
        try:
            if not results:
                main.result()
        except workflow.ContinueAsNewError as error:
            outcome = error
        except BaseException as error:
            outcome = failure_or_raise(error)
        await _end_sagas()
        outcome = self._outcome(outcome)
        if outcome is not None:
            raise outcome
        return results[0]

    def _outcome(self, outcome: BaseException | None) -> BaseException | None:
        """Return the error that the run ends with, given the one that the main method ended with."""
        if self._cut_short is not None and outcome is not None and is_cancelled_exception(outcome):
            outcome = self._cut_short  # Cancelled would say that everything has been undone
        error = self._handler_error
        if error is None or (isinstance(outcome, CompensationError) and is_cancelled_exception(error)):
            return outcome
        return error  # it came first, and cancelled the main method's saga

    async def handle_signal(self, input: HandleSignalInput) -> None:
        self._enter(in_main=False)
        try:
            await super().handle_signal(input)
            return
        except workflow.ContinueAsNewError:
            if self._main_has_ended:
                return
            run = Run.find()
            if not any(saga.holds_compensations() for saga in (run.open_sagas if run else ())):
                _forget_parked(run)
                raise
            failure: BaseException = RuntimeError(
                "continue_as_new in a signal handler would drop the compensations of an open saga: "
                "record the wish, and let the main method act on it"
            )
            if not workflow.is_failure_exception(failure):
                raise failure from None
        except (Exception, asyncio.CancelledError) as error:
            failure = failure_or_raise(error)
        # If the end of the main method or an unwound saga cut the handler short, the handler has no error of its own.
        # And a run closes only once.
        if self._main_has_ended or failure.args == (UNWOUND,) or self._handler_error is not None:
            if isinstance(failure, CompensationError):
                self._cut_short = failure
            return
        self._handler_error = failure
        await _end_sagas()
        if is_cancelled_exception(failure):
            self._handler_error = _incomplete() or failure  # the main method may be about to raise it
        if not self._main_has_ended:  # else the main method closes the run with this error
            raise self._handler_error

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        self._enter(in_main=False)
        return await super().handle_update_handler(input)

    def _enter(self, *, in_main: bool) -> None:
        gates.set(self._gate)
        search_attribute.set(self.search_attribute)
        in_main_method.set(in_main)


class _Arrival(asyncio.Future[None]):
    """The end of the main method, which the SDK's task of the run waits for. A cancel of that task goes to the gate."""

    main: asyncio.Task[None]

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def main_has_ended(self) -> None:
        """Let the run close."""
        if not self.done():
            self.set_result(None)

    def cancel(self, msg: Any = None) -> bool:
        """Hand the workflow's cancel to the gate."""
        try:
            raise_if_evicted()
        except BaseException:
            # The eviction runs in another thread, perhaps while the main method still executes in its own. If this
            # future were cancelled, the SDK's task would wake in that thread, where asyncio refuses to step it, for
            # good. The end of the main method wakes the task instead.
            self.main.cancel(msg)
        else:
            self._gate.arrive(msg)
        return True


def _incomplete() -> CompensationError | None:
    """Return the error of an incomplete saga of the run, if any: Cancelled would say that everything is undone."""
    run = Run.find()
    return next((saga.raised for saga in run.sagas if saga.raised is not None), None) if run else None


async def _end_sagas() -> None:
    """Cancel the open sagas of other tasks, each once, and wait until each has unwound: the run closes."""
    run = Run.find()
    task = asyncio.current_task()
    cancelled: list[OpenSaga] = []

    def open_sagas() -> list[OpenSaga]:
        return [saga for saga in (run.open_sagas if run else ()) if saga.owner is not task and not saga.owner.done()]

    def to_cancel() -> list[OpenSaga]:
        sagas = open_sagas()
        # A cancel of a task goes on to the task that it waits for, which may own a saga past its pivot.
        busy = {saga.owner for saga in sagas if saga.ends_by_itself}
        busy_main = any(saga.ends_by_itself and saga.cancels.is_main for saga in sagas)
        return [
            saga
            for saga in sagas
            if saga not in cancelled and saga.owner not in busy and not (busy_main and saga.cancels.is_main)
        ]

    while open_sagas():
        for saga in to_cancel():
            cancelled.append(saga)
            saga.owner.cancel()
        try:
            await workflow.wait_condition(lambda: bool(to_cancel()) or not open_sagas())
        except asyncio.CancelledError:
            raise_if_evicted()
    _forget_parked(run)


def _forget_parked(run: Run | None) -> None:
    """Show nothing as parked any more: the run closes, and continue-as-new would hand on what the list shows."""
    if run is not None and run.parking:
        run.parking.forget()
        run.show_state()
