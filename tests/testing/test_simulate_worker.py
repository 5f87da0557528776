"""The simulator has what a worker has: interceptors, plugins, converters, dynamic handlers, and a guarded adapter."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError
from temporalio.common import RawValue
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.plugin import SimplePlugin
from temporalio.service import __version__ as sdk_version
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from temporal_saga import Saga
from temporal_saga.plugin import SagaPlugin
from temporal_saga.testing import SimulationError, UnsupportedError, simulate

with workflow.unsafe.imports_passed_through():
    import anyio.to_thread

SECOND = timedelta(seconds=1)


@activity.defn
async def shout(text: str) -> str:
    return text.upper()


@activity.defn
async def whisper(text: str) -> str:
    return text.lower()


@activity.defn
async def in_a_thread_of_anyios(text: str) -> str:
    return await anyio.to_thread.run_sync(lambda: f"{text} {WHERE.get()}")


@activity.defn
async def in_a_thread_of_its_own(text: str) -> str:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()
    threading.Thread(target=lambda: loop.call_soon_threadsafe(done.set_result, text), daemon=True).start()
    return await done


WHERE: ContextVar[str] = ContextVar("where", default="outside")


@activity.defn
async def by_callbacks(text: str) -> str:
    """Tell which callbacks of a loop run, in which order, and what each finds in its context."""
    loop, told, other = asyncio.get_running_loop(), [text], copy_context()
    done: asyncio.Future[None] = loop.create_future()

    def tell(name: str) -> None:
        told.append(f"{name} {WHERE.get()}")

    other.run(WHERE.set, "elsewhere")
    WHERE.set("here")
    handles = [
        loop.call_later(0.02, tell, "last"),
        loop.call_at(loop.time() + 0.01, tell, "timer"),
        loop.call_soon(tell, "next"),
        loop.call_soon(tell, "cancelled"),
        loop.call_later(0.01, tell, "cancelled"),
        loop.call_later(0.01, tell, "given", context=other),
    ]
    WHERE.set("here, later")
    for handle in handles[3:5]:
        handle.cancel()
    loop.call_later(0.03, done.set_result, None)
    await done
    in_order = handles[0].when() > handles[1].when()  # type: ignore[attr-defined]
    return f"{told} {[handle.cancelled() for handle in handles]} {in_order}"


@activity.defn
async def fails_in_a_callback(text: str) -> str:
    def fail() -> None:
        raise ArithmeticError(text)

    asyncio.get_running_loop().call_soon(fail)
    await asyncio.sleep(3600)
    return text


@workflow.defn
class Speak:
    @workflow.run
    async def run(self, text: str, how: str = "shout") -> str:
        return str(await workflow.execute_activity(how, text, start_to_close_timeout=SECOND, result_type=str))


@workflow.defn
class BlocksHere:
    @workflow.run
    async def run(self, how: str) -> None:
        if how == "to_thread":
            await asyncio.to_thread(print)
        elif how == "open_connection":
            await asyncio.open_connection("localhost", 9)
        raise NotImplementedError("not yet")


class Outbound(WorkflowOutboundInterceptor):
    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        input.headers = {**input.headers, "who": workflow.payload_converter().to_payload("the interceptor")}
        return super().start_activity(input)


class Inbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(Outbound(outbound))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        return f"<{await super().execute_workflow(input)}>"


class Around(Interceptor):
    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return Inbound


def test_workflow_interceptors() -> None:
    simulation = simulate(Speak.run, "x", activities=[shout], interceptors=[Around()])
    assert simulation.result() == "<X>"
    assert simulation.check_replay() is None


def plugin(**options: Any) -> SimplePlugin:
    make: Callable[..., SimplePlugin] = SimplePlugin
    return make("tests", **options)


def test_plugins_give_activities_interceptors_converters_and_failure_types() -> None:
    plugins = [
        plugin(activities=[shout]),
        plugin(interceptors=[Around()]),
        plugin(workflow_failure_exception_types=[KeyError]),
        plugin(data_converter=pydantic_data_converter),
    ]
    assert simulate(Speak.run, "x", plugins=plugins).result() == "<X>"
    simulation = simulate(Buggy.run, plugins=plugins)
    with pytest.raises(WorkflowFailureError) as failure:
        simulation.result()
    error: Any = failure.value.cause
    assert error.type == "KeyError"


@workflow.defn
class Buggy:
    @workflow.run
    async def run(self) -> None:
        raise KeyError("counts as a failure")


@workflow.defn
class Exposed:
    """A signal handler fails while the saga is open: without SagaPlugin the run closes under it."""

    @workflow.run
    async def run(self) -> None:
        async with Saga() as saga:
            await saga.execute_activity(shout, "x", compensation=whisper, start_to_close_timeout=SECOND)
            await workflow.wait_condition(lambda: False)

    @workflow.signal
    def fail(self) -> None:
        raise ApplicationError("no")


def test_c12_a_plugin_runs_around_the_worker() -> None:
    """`run_context` is entered before the workflow begins and left at the end, and activities see what it has set."""
    log: list[str] = []

    @asynccontextmanager
    async def around() -> AsyncIterator[None]:
        await asyncio.sleep(1)
        token = WHERE.set("inside")
        log.append("in")
        try:
            yield
        finally:
            await asyncio.sleep(1)
            WHERE.reset(token)
            log.append("out")

    @activity.defn
    async def look(text: str) -> str:
        log.append(text)
        return WHERE.get()

    plugins = [SimplePlugin("outer", run_context=around), SimplePlugin("inner", run_context=around)]
    simulation = simulate(Speak.run, "hi", "look", activities=[look], plugins=plugins)
    assert simulation.result() == "inside"
    assert log == ["in", "in", "hi", "out", "out"]
    log.clear()
    assert simulation.check_replay() is None
    assert log == ["in", "in", "out", "out"], "a replay is another worker's"
    log.clear()
    with pytest.raises(SimulationError):
        simulate(Speak.run, "hi", "shout", plugins=plugins)  # which is not registered
    assert log == ["in", "in", "out", "out"], "left too if the simulation cannot go on"
    assert WHERE.get() == "outside"


def test_c12_a_plugin_that_cannot_begin() -> None:
    """What a plugin raises before the worker runs is raised; one that runs no worker is an error."""

    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise LookupError("no credentials")
        yield

    class RunsNothing(SimplePlugin):
        async def run_worker(self, worker: Any, next: Any) -> None:
            pass

    with pytest.raises(LookupError, match="no credentials"):
        simulate(Speak.run, "hi", activities=[shout], plugins=[SimplePlugin("broken", run_context=broken)])
    with pytest.raises(SimulationError, match="without running the worker"):
        simulate(Speak.run, "hi", activities=[shout], plugins=[RunsNothing("nothing")])


def test_callbacks_are_as_on_a_real_loop() -> None:
    """Their order, their contexts and what is cancelled; an error in one, which asyncio logs, ends the simulation."""
    simulation = simulate(Speak.run, "hi", "by_callbacks", activities=[by_callbacks])
    assert simulation.result() == copy_context().run(asyncio.run, by_callbacks("hi"))
    with pytest.raises(ArithmeticError, match="hi"):
        simulate(Speak.run, "hi", "fails_in_a_callback", activities=[fails_in_a_callback])


def test_c12_threads_of_anyio_run_at_once() -> None:
    """`anyio.to_thread` works as `asyncio.to_thread` does, in the activity's context; elsewhere it is untouched."""
    simulation = simulate(Speak.run, "hi", "in_a_thread_of_anyios", activities=[in_a_thread_of_anyios])
    assert simulation.result() == "hi outside"
    assert simulation.duration == timedelta()
    assert asyncio.run(anyio.to_thread.run_sync(threading.get_ident)) != threading.get_ident()


def test_c12_a_thread_that_calls_back_is_an_error_at_once() -> None:
    """No timeout comes before the error: the clock stands still for a thread that somebody has begun."""
    with pytest.raises(UnsupportedError, match="a thread has called back"):
        simulate(Speak.run, "hi", "in_a_thread_of_its_own", activities=[in_a_thread_of_its_own])


@pytest.mark.parametrize("sandboxed", [False, True])
@pytest.mark.parametrize(
    ("how", "called"), [("to_thread", "run_in_executor"), ("open_connection", "create_connection")]
)
def test_c12_what_a_workflow_cannot_do_is_named(how: str, called: str, sandboxed: bool) -> None:
    """A workflow that wants a thread or a socket fails its task with a message that names the call and the fix."""
    simulation = simulate(BlocksHere.run, how, sandboxed=sandboxed)
    assert f"asyncio's {called}() does not work in workflow code" in simulation.waiting_for
    assert "call it in an activity" in simulation.waiting_for
    assert simulate(BlocksHere.run, "").task_failures[0] == "NotImplementedError: not yet"


def test_the_saga_plugin_is_there_unless_others_are_given() -> None:
    async def client(handle: Any) -> None:
        await asyncio.sleep(1)
        await handle.signal(Exposed.fail)

    def labels(plugins: Sequence[object] | None) -> list[str]:
        simulation = simulate(Exposed.run, activities=[shout, whisper], client=client, plugins=plugins)
        assert simulation.status == "failed"
        return [call.label for call in simulation.calls]

    assert labels(None) == ["shout", "shout:undo"]
    assert labels([]) == ["shout"]
    assert labels([SagaPlugin(search_attribute="SagaState")]) == ["shout", "shout:undo"], "no server is asked"


class Order(BaseModel):
    item: str
    count: int


@activity.defn
async def double(order: Order) -> Order:
    assert isinstance(order, Order)
    return Order(item=order.item, count=2 * order.count)


@workflow.defn
class Models:
    @workflow.run
    async def run(self, order: Order) -> Order:
        assert isinstance(order, Order)
        return await workflow.execute_activity(double, order, start_to_close_timeout=SECOND)


def test_a_pydantic_converter() -> None:
    simulation = simulate(
        Models.run, Order(item="x", count=2), activities=[double], data_converter=pydantic_data_converter
    )
    assert simulation.result() == Order(item="x", count=4)


@dataclass
class Seen:
    name: str
    args: list[str]


@workflow.defn
class Switchboard:
    """Takes any message."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    @workflow.run
    async def run(self) -> list[Seen]:
        await workflow.wait_condition(lambda: len(self.seen) == 3)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.seen

    def _see(self, name: str, args: Sequence[RawValue]) -> None:
        converter = workflow.payload_converter()
        self.seen.append(Seen(name, [converter.from_payload(arg.payload, str) for arg in args]))

    @workflow.signal(dynamic=True)
    def any_signal(self, name: str, args: Sequence[RawValue]) -> None:
        self._see(name, args)

    @workflow.query(dynamic=True)
    def any_query(self, name: str, args: Sequence[RawValue]) -> str:
        return f"{name} {len(args)}"

    @workflow.update(dynamic=True)
    async def any_update(self, name: str, args: Sequence[RawValue]) -> str:
        self._see(name, args)
        await asyncio.sleep(1)
        return name


def test_dynamic_handlers_and_two_updates_at_once() -> None:
    async def client(handle: Any) -> None:
        await handle.signal("ping", "a", "b")
        assert await handle.query("what", "x") == "what 1"
        both = await asyncio.gather(handle.execute_update("u1"), handle.execute_update("u2", "y"))
        assert list(both) == ["u1", "u2"]

    simulation = simulate(Switchboard.run, client=client)
    assert simulation.result() == [Seen("ping", ["a", "b"]), Seen("u1", []), Seen("u2", ["y"])]
    assert simulation.duration == SECOND
    assert simulation.check_replay() is None


def changed(statement: str, environment: Mapping[str, str]) -> str:
    """Return what the import of the simulator says after a change of the SDK, in a process of its own."""
    code = f"{statement}\nimport temporal_saga.testing.simulator._sdk"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, env=dict(environment)
    )
    assert ran.returncode != 0
    return ran.stderr


_MISSING = "import temporalio.worker._workflow as w; del w._CommandAwareDataConverter"
_MORE = """
import dataclasses, temporalio.worker as w
fields = [(field.name, field.type) for field in dataclasses.fields(w.WorkflowInstanceDetails)]
w.WorkflowInstanceDetails = dataclasses.make_dataclass("WorkflowInstanceDetails", [*fields, ("more", int)])
"""


@pytest.mark.parametrize(
    ("statement", "what"), [(_MISSING, "_CommandAwareDataConverter"), (_MORE, "WorkflowInstanceDetails: more")]
)
def test_a_changed_sdk_is_named_with_its_version(statement: str, what: str) -> None:
    said = changed(statement, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert "SimulationError: temporal_saga.testing was made for temporalio 1.35" in said
    assert f"and temporalio {sdk_version} is another inside" in said
    assert what in said
