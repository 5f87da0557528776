"""A detached saga: how large its state is, for whom its arguments were written, and that it is given to one only."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from datetime import timedelta
from typing import Any, cast

import pytest
import temporalio.api.common.v1
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.converter import (
    ActivitySerializationContext,
    CompositePayloadConverter,
    DataConverter,
    DefaultPayloadConverter,
    EncodingPayloadConverter,
    JSONPlainPayloadConverter,
    PayloadConverter,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)
from temporalio.exceptions import ApplicationError
from typing_extensions import Self

import temporal_saga
from temporal_saga import Compensation, Saga, SagaState, presets
from tests.driver import Activity, Child, Run, child_completed, child_started, completed
from tests.rules.workflows import OPTIONS, REFUSED, do, end, flow, new_saga, undone

pytestmark = pytest.mark.usefixtures("collected")

MEGABYTE = 1024 * 1024
DEFAULT_LIMIT = 1536 * 1024
WARNS_ABOVE = 512 * 1024


# --- size ---


def filled(count: int, size: int, **options: Any) -> type[Any]:
    """Return a workflow that returns the state of a saga with so many entries, each with an argument of that size."""

    @flow
    async def body() -> SagaState:
        async with new_saga("order") as saga:
            for i in range(count):
                compensation = Compensation("undo", "x" * size, **options) if options else "undo"
                saga.add_compensation(compensation, *([] if options else ["x" * size]), step=f"step-{i:04}")
            return saga.detach()

    return body


def state_of(count: int, size: int, **options: Any) -> Any:
    return Run(filled(count, size, **options)).start().result


def as_bytes(state: Any) -> int:
    return len(DataConverter.default.payload_converter.to_payload(state).data)


@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 10), (1, 100_000), (100, 1_000), (300, 10)])
def test_the_size_of_a_state_is_that_of_its_payload(count: int, size: int) -> None:
    """The server counts the payload: what `size` says may be above it by a little, never below it by more."""
    sizes: list[int] = []

    @flow
    async def body() -> SagaState:
        async with new_saga("order") as saga:
            for i in range(count):
                saga.add_compensation("undo", "x" * size, step=f"step-{i:04}")
            state = saga.detach()
            sizes.append(state.size)
            return state

    payload = as_bytes(Run(body).start().result)
    assert payload * 0.98 <= sizes[0] <= payload * 1.1 + 50


SHARED: dict[str, dict[str, Any]] = {
    "the saga's": {},
    "those of a preset": dict(presets.compensation_bounded()),
    "written by hand": {
        "start_to_close_timeout": timedelta(seconds=7),
        "heartbeat_timeout": timedelta(seconds=3),
        "task_queue": "undo-queue",
        "retry_policy": RetryPolicy(maximum_attempts=3, non_retryable_error_types=["Declined", "Rejected"]),
    },
}


@pytest.mark.parametrize("options", SHARED)
def test_options_that_many_entries_share_are_written_once(options: str) -> None:
    """An entry costs what is its own: a name, a key, its place. It was 546 bytes beside its arguments."""
    few, many = (as_bytes(state_of(count, 0, **SHARED[options])) for count in (100, 300))
    assert (many - few) / 200 <= 350


def test_an_argument_is_written_once_and_not_much_longer() -> None:
    small, large = (as_bytes(state_of(10, size)) for size in (1_000, 21_000))
    assert (large - small) / 10 / 20_000 <= 1.4


def test_options_that_differ_stay_with_their_entries() -> None:
    @flow
    async def body() -> SagaState:
        async with new_saga("order", compensation_options=OPTIONS) as saga:
            for i in range(6):
                options: dict[str, Any] = {"task_queue": f"queue-{i % 3}"} if i % 3 else {}
                saga.add_compensation("undo", i, **options)
            return saga.detach()

    run = Run(Resumes, Run(body).start().result).autopilot({})
    assert [(activity.args, activity.command.task_queue) for activity in run.scheduled] == [
        ([5], "queue-2"),
        ([4], "queue-1"),
        ([3], "task-queue"),
        ([2], "queue-2"),
        ([1], "queue-1"),
        ([0], "task-queue"),
    ]
    run.check()


@workflow.defn
class Resumes:
    """Goes on with a state, and fails."""

    @workflow.run
    async def run(self, state: SagaState) -> None:
        async with new_saga(state=state):
            raise REFUSED


def too_large(count: int, size: int, **options: Any) -> type[Any]:
    """Return a workflow that undoes its steps by arguments of that size, and goes on as new with its state."""

    @flow
    async def body() -> None:
        async with new_saga("order") as saga:
            for i in range(count):
                await do(saga, "a", compensation=Compensation("undo_a", "x" * size), key=str(i))
            workflow.continue_as_new(saga.detach(**options))

    return body


@pytest.mark.parametrize(
    ("count", "size", "options"),
    [(25, 100_000, {}), (300, 6_000, {}), (1, 1_700_000, {}), (3, 1_000, {"max_bytes": 2_000})],
    ids=["25 of 100 kB", "300 of 6 kB", "one of 1.7 MB", "3 over a limit of one's own"],
)
def test_a_state_over_the_limit_unwinds_the_saga(count: int, size: int, options: dict[str, Any]) -> None:
    """The server would refuse it for ever, with everything armed."""
    run = Run(too_large(count, size, **options)).autopilot({})
    assert end(run) == "SagaStateTooLarge"
    assert undone(run) == ["undo_a"] * count
    error = run.error
    assert isinstance(error, ApplicationError)
    assert error.non_retryable
    assert "'order'" in error.message
    assert "max_bytes" in error.message
    if count < 10:
        run.check()


@pytest.mark.parametrize("how", ["below the limit", "over it, and allowed"])
def test_a_state_that_may_go_goes(how: str) -> None:
    options: dict[str, Any] = {"max_bytes": 3 * MEGABYTE} if how != "below the limit" else {}
    size = 1_000_000 if how == "below the limit" else 1_600_000
    run = Run(too_large(1, size, **options)).autopilot({})
    assert run.closed is not None
    assert run.closed[0] == "continue_as_new", end(run)
    (state,) = run.closed[1]
    assert (as_bytes(state) < DEFAULT_LIMIT) is (how == "below the limit")
    assert undone(run) == []


def test_the_limit_is_a_mebibyte_and_a_half() -> None:
    """Between a state just below it, and one just above it."""

    def ends(size: int) -> str:
        run = Run(too_large(1, size)).autopilot({})
        assert run.closed is not None
        return str(run.closed[0])

    overhead = as_bytes(state_of(1, 1_000_000)) / 1_000_000
    assert ends(int(DEFAULT_LIMIT * 0.97 / overhead)) == "continue_as_new"
    assert ends(int(DEFAULT_LIMIT * 1.03 / overhead)) == "fail"


def test_a_state_too_large_that_is_caught_leaves_the_saga_open() -> None:
    @flow
    async def body() -> str:
        async with new_saga("order") as saga:
            await do(saga, "a")
            try:
                saga.detach(max_bytes=10)
            except ApplicationError as error:
                caught = str(error.type)
            assert saga.report().state == "OPEN"
            await do(saga, "b")
            if caught == "SagaStateTooLarge":
                raise REFUSED
        return caught

    run = Run(body).autopilot({})
    assert run.history == ["a", "b", "undo_b", "undo_a"]
    assert end(run) == "Refused"
    run.check()


def test_the_error_is_one_of_the_library() -> None:
    error_class = cast("Any", temporal_saga).SagaStateTooLarge
    assert error_class is cast("Any", temporal_saga.errors).SagaStateTooLarge
    assert issubclass(error_class, ApplicationError)
    assert "SagaStateTooLarge" in temporal_saga.__all__
    assert "SagaStateTooLarge" in temporal_saga.errors.__all__
    error = error_class("message")
    assert (error.type, error.non_retryable) == ("SagaStateTooLarge", True)


@pytest.mark.parametrize("size", [100, 350_000, 600_000])
def test_a_large_state_is_warned_of(size: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = Run(too_large(1, size)).autopilot({})
    assert run.closed is not None
    (state,) = run.closed[1]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    if as_bytes(state) <= WARNS_ABOVE:
        assert warnings == []
        return
    assert size == 600_000
    (warning,) = warnings
    assert "order" in warning
    assert "xxx" not in warning


# --- for whom the arguments are written ---


@dataclasses.dataclass(frozen=True)
class Money:
    """An argument that is no JSON primitive."""

    amount: int
    note: str | None = None


class Signed(JSONPlainPayloadConverter, WithSerializationContext):
    """JSON, signed for its receiver; a payload that was signed for another does not decode.

    What has no context, the driver's own, is neither signed nor looked at.
    """

    parts: tuple[str, ...] = ("activity_type", "workflow_id", "activity_task_queue", "activity_id")

    def __init__(self, context: SerializationContext | None = None) -> None:
        super().__init__()
        self.context = context

    def with_context(self, context: SerializationContext) -> Self:
        """Return one that signs for this receiver."""
        return type(self)(context)

    def receiver(self) -> bytes:
        """Name the receiver."""
        if isinstance(self.context, WorkflowSerializationContext):
            return self.workflow(self.context.workflow_id)
        if isinstance(self.context, ActivitySerializationContext):
            return " ".join(str(getattr(self.context, part)) for part in self.parts).encode()
        return b""

    def workflow(self, id: str) -> bytes:
        """Name a workflow."""
        return f"workflow {id}".encode()

    def to_payload(self, value: Any) -> temporalio.api.common.v1.Payload | None:
        """Sign."""
        payload = super().to_payload(value)
        if payload is not None and self.context is not None:
            payload.metadata["signed-for"] = self.receiver()
        return payload

    def from_payload(self, payload: temporalio.api.common.v1.Payload, type_hint: type | None = None) -> Any:
        """Check."""
        signed = payload.metadata.get("signed-for", b"")
        if signed and self.context is not None and signed != self.receiver():
            raise RuntimeError(f"signed for {signed!r}, and received by {self.receiver()!r}")
        return super().from_payload(payload, type_hint)


class SignedByType(Signed):
    """Signed for the receiver's type alone, wherever it runs."""

    parts = ("activity_type",)

    def workflow(self, id: str) -> bytes:
        """Name any workflow."""
        return b"workflow"


class Bound(CompositePayloadConverter):
    """Each payload signed for its receiver."""

    def __init__(self) -> None:
        super().__init__(*[c for c in self.of_the_sdk() if not isinstance(c, JSONPlainPayloadConverter)], Signed())

    @staticmethod
    def of_the_sdk() -> list[EncodingPayloadConverter]:
        """What the SDK has."""
        return list(DefaultPayloadConverter().converters.values())


class BoundByType(CompositePayloadConverter):
    """Each payload signed for its receiver's type."""

    def __init__(self) -> None:
        others = [each for each in Bound.of_the_sdk() if not isinstance(each, JSONPlainPayloadConverter)]
        super().__init__(*others, SignedByType())


def bound(converter: type[PayloadConverter]) -> DataConverter:
    return dataclasses.replace(DataConverter.default, payload_converter_class=converter)


def received(call: Activity | Child, run: Run) -> list[Any]:
    """Decode the arguments of a call as its receiver does; raise if they were signed for another."""
    if isinstance(call, Child):
        context: SerializationContext = WorkflowSerializationContext("default", call.id)
        payloads = call.command.input
    else:
        context = ActivitySerializationContext(
            namespace="default",
            activity_id=call.id,
            activity_type=call.name,
            activity_task_queue=call.command.task_queue,
            workflow_id=run.workflow_id,
            workflow_type=run.workflow.__name__,
            is_local=False,
        )
        payloads = call.command.arguments
    assert all("signed-for" in payload.metadata for payload in payloads)
    converter = cast("WithSerializationContext", run.data_converter.payload_converter).with_context(context)
    return cast("PayloadConverter", converter).from_payloads(payloads, [Money] * len(payloads))


MONEY = Money(5, "for the taxi")


async def arm(saga: Saga) -> None:
    """Arm one compensation of each kind."""
    await do(saga, "a", compensation=Compensation("undo_a", MONEY))
    await do(saga, "b", compensation=Compensation("undo_b", args=[MONEY, MONEY], task_queue="undo-queue"), key="k")
    await do(saga, "c", compensation=Compensation.child_workflow("UndoC", MONEY))
    await do(saga, "d", compensation=Compensation.child_workflow("UndoD", MONEY, id="mine"))
    saga.add_compensation("undo_e", MONEY)


@workflow.defn
class Arms:
    @workflow.run
    async def run(self, how: str) -> SagaState:
        async with new_saga("order") as saga:
            await arm(saga)
            if how == "fail":
                raise REFUSED
            if how == "twice":
                await asyncio.sleep(1)
            return saga.detach()


@workflow.defn
class Again:
    @workflow.run
    async def run(self, state: SagaState) -> SagaState:
        async with new_saga(state=state) as saga:
            return saga.detach()


def calls(run: Run) -> list[Activity | Child]:
    """Drive a run to its end; return the activities and children that undid something, in order of their names."""
    found: dict[str, Activity | Child] = {}
    while run.closed is None:
        found |= {activity.id: activity for activity in run.activities}
        found |= {child.id: child for child in run.children}
        run.activate(run._next({}))
    return sorted((call for call in found.values() if call.name.lower().startswith("undo")), key=lambda c: c.name)


def as_text(state: Any) -> Any:
    """Send a state through JSON text: a client, a file, a database."""
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("converter", [Bound, BoundByType])
def test_arguments_are_written_for_their_receiver(converter: type[PayloadConverter], times: int) -> None:
    """As the SDK writes them for the call itself: detached, gone on as new, undone, they decode."""
    run = Run(Arms, "detach", data_converter=bound(converter)).autopilot({})
    for _ in range(times - 1):
        run = Run(Again, as_text(run.result), data_converter=bound(converter)).start()
    later = Run(Resumes, as_text(run.result), data_converter=bound(converter)).start()
    undos = calls(later)
    assert [call.name for call in undos] == ["UndoC", "UndoD", "undo_a", "undo_b", "undo_e"]
    for call in undos:
        assert received(call, later) == [MONEY] * (2 if call.name == "undo_b" else 1)
    assert end(later) == "Refused"
    later.check()


def test_arguments_are_written_as_without_detach() -> None:
    """The same bytes, whether the saga went through a state or not."""
    here = Run(Arms, "fail", data_converter=bound(Bound), run_id=RUN_ID).start()
    at_once = {call.id: payloads(call) for call in calls(here)}
    first = Run(Arms, "detach", data_converter=bound(Bound), run_id=RUN_ID).autopilot({})
    later = Run(Resumes, as_text(first.result), data_converter=bound(Bound)).start()
    assert {call.id: payloads(call) for call in calls(later)} == at_once


RUN_ID = "11111111-2222-4333-8444-555555555555"


def payloads(call: Activity | Child) -> list[bytes]:
    found = call.command.input if isinstance(call, Child) else call.command.arguments
    return [payload.SerializeToString(deterministic=True) for payload in found]


@workflow.defn
class Adopts:
    """Runs a child, and takes its detached saga over."""

    @workflow.run
    async def run(self) -> None:
        async with new_saga("parent") as saga:
            await do(saga, "first", compensation=Compensation("undo_first", MONEY))
            await saga.execute_child_workflow(
                "Arms", "detach", result_type=SagaState, compensation_from=lambda outcome: outcome.result
            )
            raise REFUSED


def test_a_childs_state_in_its_parent() -> None:
    """Its arguments were written in the child: a converter that signs for types decodes them in the parent.

    One that signs for the workflow's id cannot, since the undo's workflow is another one: say so in the docs.
    """
    child = Run(Arms, "detach", data_converter=bound(BoundByType), workflow_id="the-child").autopilot({})
    run = Run(Adopts, data_converter=bound(BoundByType)).start()
    run.activate(completed("first"))
    run.activate(child_started("Arms"))
    run.activate(child_completed("Arms", as_text(child.result)))
    undos = calls(run)
    assert [call.name for call in undos] == ["UndoC", "UndoD", "undo_a", "undo_b", "undo_e", "undo_first"]
    for call in undos:
        assert received(call, run) == [MONEY] * (2 if call.name == "undo_b" else 1)
    run.check()


# --- one state, one taker ---


@flow
async def detaches() -> SagaState:
    async with new_saga("child") as saga:
        await do(saga, "a")
        return saga.detach()


def child_state() -> Any:
    return Run(detaches).autopilot({}).result


async def join(saga: Saga, state: SagaState, *, key: str = "1") -> None:
    await do(saga, "child", compensation_from=lambda _: state, key=key)


def given_twice(state: SagaState, how: str) -> type[Any]:
    @flow
    async def body() -> None:
        if how == "joined, then given to a saga":
            async with new_saga("parent") as saga:
                await join(saga, state)
                async with Saga(state=state, activity_options=OPTIONS):
                    raise REFUSED
        if how == "joined by a saga that has ended, then given to a saga":
            async with new_saga("parent") as saga:
                await join(saga, state)
            async with Saga(state=state, activity_options=OPTIONS):
                raise REFUSED
        if how == "given to a saga, then joined inside":
            async with Saga(state=state, activity_options=OPTIONS), new_saga("parent") as saga:
                await join(saga, state)
                raise REFUSED
        if how == "given to a saga that has ended, then joined":
            async with Saga(state=state, activity_options=OPTIONS):
                pass
            async with new_saga("parent") as saga:
                await join(saga, state)
                raise REFUSED
        if how == "joined twice by one saga":
            async with new_saga("parent") as saga:
                await join(saga, state)
                await join(saga, state, key="2")
                raise REFUSED
        if how == "joined by two sagas":
            async with new_saga("parent") as saga, new_saga("another") as another:
                await join(saga, state)
                await join(another, state)
                raise REFUSED
        if how == "joined in a savepoint, and in its saga":
            async with new_saga("parent") as saga:
                async with saga.savepoint() as attempt:
                    await join(attempt, state)
                await join(saga, state, key="2")
                raise REFUSED
        if how == "joined by the saga that goes on with it":
            async with Saga(state=state, activity_options=OPTIONS) as saga:
                await join(saga, state)
                raise REFUSED

    return body


GIVEN_TWICE = [
    "joined, then given to a saga",
    "joined by a saga that has ended, then given to a saga",
    "given to a saga, then joined inside",
    "given to a saga that has ended, then joined",
    "joined twice by one saga",
    "joined by two sagas",
    "joined in a savepoint, and in its saga",
    "joined by the saga that goes on with it",
]


@pytest.mark.parametrize("how", GIVEN_TWICE)
def test_a_state_given_to_two_in_one_run_is_misuse(how: str) -> None:
    """In either order: each would undo it, and neither knows of the other."""
    state = restored(child_state())
    run = Run(given_twice(state, how)).autopilot({})
    assert end(run) == "task: RuntimeError"
    assert run.task_failure is not None
    assert "'child'" in run.task_failure[2]
    assert "once" in run.task_failure[2]
    assert undone(run).count("undo_a") <= 1
    run.check()


def restored(state: Any) -> SagaState:
    """Return a state as a run gets it."""
    converter = DataConverter.default.payload_converter
    return converter.from_payload(converter.to_payload(state), SagaState)


def test_the_states_of_two_children_are_two() -> None:
    """Of two runs of one workflow, with the same names: each is joined, and undone once."""
    states = [restored(child_state()) for _ in range(2)]

    @flow
    async def body() -> None:
        async with new_saga("parent") as saga:
            for i, state in enumerate(states):
                await join(saga, state, key=str(i))
            raise REFUSED

    run = Run(body).autopilot({})
    assert undone(run) == ["undo_a", "undo_a"]
    assert len({activity.id for activity in run.scheduled}) == 4
    assert end(run) == "Refused"
    run.check()


def test_a_state_that_was_detached_again_may_be_joined() -> None:
    """It is one life of the saga after another, and not two at once."""
    state = restored(child_state())

    @flow
    async def body() -> None:
        async with Saga(state=state, activity_options=OPTIONS) as first:
            again = first.detach()
        async with new_saga("parent") as saga:
            await do(saga, "child", compensation_from=lambda _: again)
            raise REFUSED

    run = Run(body).autopilot({})
    assert undone(run) == ["undo_a"]
    assert end(run) == "Refused"
    run.check()
