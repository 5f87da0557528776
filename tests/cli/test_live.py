"""The command line against a real server, for a saga in each state. One server and one set of sagas for all."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import (
    PauseWorkflowExecutionRequest,
    ResetWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from examples.dev_server import dev_server
from temporal_saga import _parking
from temporal_saga.cli import _fetch
from temporal_saga.cli._connect import Problem
from temporal_saga.cli._history import read
from temporal_saga.cli._resolve import TOO_EARLY, Settlement, settle
from temporal_saga.plugin import SagaPlugin
from tests.cli import sagas
from tests.cli.sagas import KEY, MARKER
from tests.cli.support import check_snapshot, plain, run

pytestmark = pytest.mark.server

SETTINGS = (
    # By default the server marks a run whose workflow task fails after five attempts, which take a minute.
    "--dynamic-config-value",
    "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute=1",
    "--dynamic-config-value",
    "frontend.WorkflowPauseEnabled=true",
)
REASON = f"{MARKER} reason"
CHILDREN = (sagas.Child, sagas.TakesBack, sagas.Stubborn, sagas.UndoesItself, sagas.Rejects, sagas.Refundable)
PARKED = [("Parked", "charge"), ("ParkedOver", "charge"), ("ParkedStep", "ship")]


class Reversed(PayloadCodec):
    """Encodes payloads, so that nothing can be read without it."""

    async def encode(self, payloads: Any) -> list[Payload]:
        return [
            Payload(metadata={"encoding": b"binary/reversed"}, data=each.SerializeToString()[::-1]) for each in payloads
        ]

    async def decode(self, payloads: Any) -> list[Payload]:
        return [
            Payload.FromString(each.data[::-1]) if each.metadata["encoding"] == b"binary/reversed" else each
            for each in payloads
        ]


@dataclass
class World:
    """A server with sagas in each state in one namespace, and a namespace where the search attribute is registered."""

    client: Client
    with_attribute: Client

    async def cli(self, *args: str, namespace: str = "default", answer: str = "") -> Any:
        address = self.client.service_client.config.target_host
        said = await run(*args, "--address", address, "--namespace", namespace, answer=answer)
        assert MARKER not in said.out + said.err, "arguments, results, errors and reasons do not leak"
        return said


async def until(what: Callable[[], Awaitable[object]]) -> Any:
    for _ in range(300):
        with suppress(RPCError):  # a child that has not begun
            if found := await what():
                return found
        await asyncio.sleep(0.1)
    raise AssertionError("it did not happen")


def failures(handle: WorkflowHandle[Any, Any], phase: str = ":undo:") -> Callable[[], Awaitable[str]]:
    """Wait until a pending activity is in its long backoff, and return its id."""

    async def look() -> str:
        pending = (await handle.describe()).raw_description.pending_activities
        return next((each.activity_id for each in pending if phase in each.activity_id and each.attempt == 4), "")

    return look


def worker(client: Client, queue: str, **options: Any) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        workflows=sagas.WORKFLOWS,
        activities=sagas.ACTIVITIES,
        workflow_runner=UnsandboxedWorkflowRunner(),
        identity="worker",
        **options,
    )


async def start(client: Client, workflow: type, id: str, *args: Any, queue: str = "q") -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(workflow.run, args=args, id=id, task_queue=queue)  # type: ignore[attr-defined]


async def ended(handle: WorkflowHandle[Any, Any]) -> bool:
    return (await handle.describe()).close_time is not None


async def happened(handle: WorkflowHandle[Any, Any], activity: str) -> Any:
    """The history, once that activity has completed."""
    events = [event async for event in handle.fetch_history_events()]
    for event in events:
        scheduled = event.activity_task_completed_event_attributes.scheduled_event_id
        if scheduled and events[scheduled - 1].activity_task_scheduled_event_attributes.activity_type.name == activity:
            return events
    return None


async def settled(handle: WorkflowHandle[Any, Any]) -> bool:
    """Tell whether the last thing that happened is a workflow task: the run waits for nothing of the server."""
    events = [event async for event in handle.fetch_history_events()]
    return events[-1].HasField("workflow_task_completed_event_attributes")


async def reset(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    """Reset a run to where its first timer fired: what it did after that is in the old run only."""
    events = await until(lambda: happened(handle, "charge"))
    fired = next(n for n, event in enumerate(events) if event.HasField("timer_fired_event_attributes"))
    task = next(event for event in events[fired:] if event.HasField("workflow_task_completed_event_attributes"))
    await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            reason=REASON,
            workflow_task_finish_event_id=task.event_id,
            request_id="reset",
        )
    )


@pytest.fixture(scope="module")
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        extra = ("--namespace", "operators", *SETTINGS)
        env = await stack.enter_async_context(dev_server(plugins=[SagaPlugin()], extra_args=extra))
        client = env.client
        address = client.service_client.config.target_host
        operators = await Client.connect(address, namespace="operators")
        await operators.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace="operators", search_attributes={"SagaState": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD}
            )
        )
        secret = replace(
            DataConverter.default,
            payload_codec=Reversed(),
            failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
        )
        encoded = await Client.connect(address, data_converter=secret, plugins=[SagaPlugin()])
        await stack.enter_async_context(worker(operators, "q", plugins=[SagaPlugin(search_attribute="SagaState")]))
        await stack.enter_async_context(worker(client, "q"))
        await stack.enter_async_context(worker(encoded, "encoded"))

        handles = {}
        for workflow in sagas.WORKFLOWS:
            if workflow not in (*CHILDREN, *(getattr(sagas, name) for name, _ in PARKED)):
                args = [sagas.Hop(1)] if workflow is sagas.Continued else []
                id = workflow.__name__.lower()
                handles[id] = await start(client, workflow, id, *args)
        handles["encoded"] = await start(encoded, sagas.Compensated, "encoded", queue="encoded")
        await until(failures(handles["terminated"]))
        await handles["terminated"].terminate(REASON)
        await reset(client, handles["waits"])
        await until(lambda: ended(handles["repeats"]))
        await reset(client, handles["repeats"])
        await until(failures(handles["retrying"]))
        await until(lambda: failures(client.get_workflow_handle("stubborn"), "")())
        for id in ("incomplete", "compensated", "completed", "parent", "encoded", "undonewithin"):
            await until(lambda handle=handles[id]: ended(handle))  # type: ignore[misc]
        for id in ("continued", "repeats"):
            await until(lambda id=id: ended(client.get_workflow_handle(id)))  # type: ignore[misc]
        await until(lambda: happened(client.get_workflow_handle("waits"), "charge"))
        await until(lambda: happened(handles["bug"], "reserve"))
        await until(lambda: happened(handles["swallowed"], "charge"))
        await until(lambda: settled(handles["swallowed"]))
        yield World(client, operators)


@pytest.mark.parametrize(
    "id",
    [
        "open",
        "unwinding",
        "retrying",
        "incomplete",
        "compensated",
        "completed",
        "terminated",
        "bug",
        "continued",
        "parent",
        "waits",
        "encoded",
        "undonebychild",
        "undonewithin",
        "repeats",
        "swallowed",
    ],
)
async def test_show(world: World, id: str, tmp_path: Path) -> None:
    """A saga in each state, as text, JSON and page."""
    said = await world.cli("show", id)
    assert (said.code, said.err) == (0, "")
    check_snapshot(f"show-{id}", said.out)
    story = json.loads((await world.cli("show", id, "--json")).out)
    assert story["workflow_id"] == id
    assert plain(story["verdict"][0]).split("next")[0] in plain(said.out)
    html = tmp_path / "page.html"
    assert (await world.cli("show", id, "--html", str(html))).code == 0
    page = html.read_text()
    assert MARKER not in page
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


async def test_show_the_run_before_a_reset(world: World) -> None:
    """A run that was reset or continued is told as what it has become."""
    whole = json.loads((await world.cli("show", "waits", "--json")).out)
    assert len(whole["runs"]) == 2
    assert (
        json.loads((await world.cli("show", "waits", "--run-id", whole["runs"][0], "--json")).out)["runs"]
        == whole["runs"]
    )
    continued = json.loads((await world.cli("show", "continued", "--json")).out)
    first = json.loads((await world.cli("show", "continued", "--run-id", continued["runs"][0], "--json")).out)
    assert first["steps"] == continued["steps"]


async def test_list_without_the_attribute(world: World) -> None:
    """Histories are read: each saga that needs a person is found, and no other."""
    said = await world.cli("list")
    assert said.code == 0
    assert "register SagaState" in said.err
    found = {each["workflow_id"]: each["kinds"] for each in json.loads((await world.cli("list", "--json")).out)}
    assert found == {
        "retrying": ["stuck", "unwinding"],
        "bug": ["stuck"],
        "undonebychild": ["stuck", "unwinding"],
        "incomplete": ["incomplete"],
        "swallowed": ["incomplete"],
        "terminated": ["incomplete"],
        "unwinding": ["unwinding"],
    }
    check_snapshot("list", said.out)
    assert (await world.cli("list", "--parked")).out == "Nothing needs a person.\n"
    only = await world.cli("list", "--incomplete", "--query", "WorkflowType = 'Terminated'", "--json")
    assert [each["workflow_id"] for each in json.loads(only.out)] == ["terminated"]
    few = await world.cli("list", "--most", "2")
    assert "There are more" in few.err


async def test_list_counts_the_history_of_each_run(world: World) -> None:
    """Of a chain of runs, too; and one that was begun is read to its end, whatever `--most` says."""
    for most in ("1", "1000"):
        said = await world.cli("list", "--query", "WorkflowId = 'continued'", "--most", most)
        assert "0 found, 2 histories read" in said.err
        assert "There are more" not in said.err
    few = await world.cli("list", "--query", "WorkflowId IN ('continued', 'parent')", "--most", "1")
    assert "There are more" in few.err


async def test_a_history_that_cannot_be_read_hides_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the list, and of a child of what is shown. It is named; what the error says is not repeated."""

    def reads(events: Any, now: Any = None, **options: Any) -> Any:
        run = read(events, now, **options)
        if run.workflow_id == "incomplete" or run.type == "Child":
            raise ValueError(MARKER)
        return run

    monkeypatch.setattr(_fetch, "read", reads)
    said = await world.cli("list", "--incomplete", "--json")  # as an open one is, too
    assert {each["workflow_id"] for each in json.loads(said.out)} == {"swallowed", "terminated"}
    assert "Left out: workflow 'incomplete': a fault in temporal-saga: ValueError" in said.err
    story = json.loads((await world.cli("show", "parent", "--json")).out)
    assert story["steps"]
    assert any("cannot be read: ValueError" in note for note in story["notes"])


async def key_of(world: World, id: str, step: str, namespace: str = "operators") -> str:
    story = json.loads((await world.cli("show", id, "--json", namespace=namespace)).out)
    return str(next(each["key"] for each in story["steps"] if each["name"] == step))


@pytest.mark.parametrize(("workflow", "step"), PARKED)
async def test_parked(world: World, workflow: str, step: str) -> None:
    """What is parked is shown, listed by the attribute, asked about, and settled; who decided is on record."""
    id = workflow.lower()
    handle = await start(world.with_attribute, getattr(sagas, workflow), id)

    async def cli(*args: str, answer: str = "") -> Any:
        return await world.cli(*args, namespace="operators", answer=answer)

    async def listed(failures: int = 1) -> Any:
        said = await cli("list", "--parked", "--query", f"WorkflowId = '{id}'")
        return said if "parked" in said.out and (await cli("show", id)).out.count("failed after") == failures else None

    said = await until(listed)
    check_snapshot(f"list-{id}", said.out)
    assert "by the search attribute SagaState" in said.err
    other = await cli("list", "--search-attribute", "Other", "--query", f"WorkflowId = '{id}'")
    assert "register Other" in other.err
    check_snapshot(f"show-{id}", (await cli("show", id)).out)
    key = await key_of(world, id, step)
    if workflow == "ParkedStep":
        other = await key_of(world, id, "reserve")
        said = await cli("resolve", id, other, "retry", "--who", "a", "--why", "b")
        assert f"parked now: {step} {key}" in said.err
        said = await cli("resolve", id, key, "done-by-hand", "--who", "a", "--why", "b")
        assert "nobody can give its result by hand" in said.err
    decision = (id, key, "give-up" if workflow == "ParkedStep" else "done-by-hand", "--who", "alice", "--why", REASON)
    refused = await cli("resolve", *decision, answer="n\n")
    assert refused.code == 1
    assert refused.out.count("?") == 2
    again = await cli("resolve", id, key, "retry", "--who", "bob", "--why", "x", "--yes")
    assert (again.code, again.err) == (0, "")
    assert again.out.endswith("runs again.\n")
    await until(lambda: listed(2))
    settled = await cli("resolve", *decision, answer="y\n")
    assert (settled.code, settled.err) == (0, "")
    await until(lambda: ended(handle))
    check_snapshot(f"show-{id}-settled", (await cli("show", id)).out)


async def test_stuck_is_found_by_the_server_s_own_mark(world: World) -> None:
    """With the attribute registered the server finds runs whose workflow task fails; those with effects are listed."""
    await start(world.with_attribute, sagas.Bug, "bug")

    async def listed() -> Any:
        return json.loads((await world.cli("list", "--stuck", "--json", namespace="operators")).out)

    (found,) = await until(listed)
    assert (found["workflow_id"], found["kinds"]) == ("bug", ["stuck"])
    await world.with_attribute.get_workflow_handle("bug").terminate()


async def test_an_undo_that_is_tried_again_is_settled_by_hand(world: World) -> None:
    """Its activity is completed, with who and why on record; the saga goes on, and its end is complete.

    The action may be spelled as in the update, with underscores.
    """
    handle = await start(world.client, sagas.Terminated, "by-hand")
    id = await until(failures(handle))
    ask = ("resolve", "by-hand", id)
    record = ("--who", "alice", "--why", REASON)
    assert "is retried automatically" in (await world.cli(*ask, "retry", *record, "--yes")).err
    assert (await world.cli(*ask, "done-by-hand", *record, answer="\n")).code == 1
    said = await world.cli(*ask, "done_by_hand", *record, "--yes")
    assert (said.code, said.out) == (0, "refund counts as done: charge is undone by hand.\n")
    await until(lambda: ended(handle))
    check_snapshot("show-by-hand", (await world.cli("show", "by-hand")).out)
    identities = [
        event.activity_task_completed_event_attributes.identity async for event in handle.fetch_history_events()
    ]
    assert f"alice: {REASON} (temporal-saga resolve)" in identities
    late = await world.cli(*ask, "done-by-hand", *record, "--yes")
    assert (late.code, "is already undone" in late.err) == (1, True)


async def test_a_workflow_that_ends_before_the_decision_comes(world: World) -> None:
    """It was open when the person was asked. That it has ended is what is said, and not that there is none."""
    ended_one = world.client.get_workflow_handle("completed")
    run_id = (await ended_one.describe()).run_id
    late = Settlement("completed", run_id, "update", "", KEY, "retry", "?", "!")
    with pytest.raises(Problem, match="the workflow has ended in the meantime"):
        await settle(world.client, late, "ann", "x")


@pytest.mark.parametrize(("message", "asked"), [(f"'charge' {TOO_EARLY}: decide again", 3), ("nothing is parked", 1)])
async def test_a_decision_that_comes_too_early_is_sent_again(
    world: World, message: str, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query may show what is parked before the history has it. Only for this the command waits by itself."""
    assert TOO_EARLY in inspect.getsource(_parking)
    monkeypatch.setattr(sagas.Rejects, "asked", 0)
    handle = await start(world.client, sagas.Rejects, f"rejects-{asked}", message)
    run_id = (await handle.describe()).run_id
    settlement = Settlement(handle.id, run_id, "update", "", KEY, "retry", "?", "!")
    with nullcontext() if asked > 1 else pytest.raises(Problem, match=message):
        await settle(world.client, settlement, "ann", "x")
    assert sagas.Rejects.asked == asked
    await handle.terminate()


async def test_resolve_where_nobody_is_asked(world: World) -> None:
    """For a saga in each state in which nothing is parked: one line says why, and what to do in its place."""
    lines: list[str] = []
    for id in ("open", "unwinding", "retrying", "incomplete", "compensated", "completed", "terminated", "bug"):
        key = await key_of(world, id, "reserve" if id in ("compensated", "bug") else "charge", "default")
        said = await world.cli("resolve", id, key, "retry", "--who", "ann", "--why", REASON, "--yes")
        assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
        lines.append(f"{id}: {said.err}")
    check_snapshot("resolve-nobody-is-asked", "".join(lines))


async def test_what_is_not_parked_is_not_settled(world: World) -> None:
    """An undo that failed for good, in a saga that went on: the workflow refuses, and nothing changes."""
    key = await key_of(world, "swallowed", "charge", "default")
    said = await world.cli("resolve", "swallowed", key, "retry", "--who", "a", "--why", "b", "--yes")
    assert (said.code, "nothing is parked under that key" in said.err) == (1, True)


async def test_without_a_worker(world: World) -> None:
    """No worker answers: the account is the history's, and a decision that nobody takes is no decision."""
    async with worker(world.client, "gone"):
        handle = await start(world.client, sagas.Terminated, "gone", queue="gone")
        await until(failures(handle))
    check_snapshot("show-gone", (await world.cli("show", "gone")).out)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["show", "nobody"], "workflow 'nobody' is not in namespace 'default'"),
        (["show", "open", "--run-id", "1"], "check the ids and the query"),
        (["show", "open", "--namespace", "nowhere"], "no namespace 'nowhere'"),
        (["show", "open", "--address", "127.0.0.1:1"], "no Temporal server answers at 127.0.0.1:1"),
        (["show", "open", "--tls"], "check the address and TLS"),
        (["show", "open", "--profile", "nobody"], "the connection settings cannot be read"),
        (["show", "open", "--html", "/nowhere/page.html"], "cannot be written"),
        (["list", "--query", "Color = 'red'"], "check the ids and the query"),
        (["list", "--search-attribute", "a OR b"], "is not the name of a search attribute"),
        (["resolve", "open", KEY, "retry", "--who", "a", "--why", "b"], "no step with the key"),
        (["resolve", "open", KEY, "retry", "--who", " ", "--why", "b"], "say --who"),
    ],
)
async def test_what_goes_wrong_is_one_line(world: World, args: list[str], says: str) -> None:
    """One clear line, exit code 1."""
    address = world.client.service_client.config.target_host
    said = await run(*args, *([] if "--address" in args else ["--address", address]))
    assert said.code == 1
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1


@pytest.mark.needs_server("1.30")
async def test_a_paused_workflow(world: World) -> None:
    """A paused workflow is shown, and accepts no decision; this says so."""
    handle = await start(world.with_attribute, sagas.Parked, "paused")
    await until(lambda: has_attribute(handle))
    await world.with_attribute.workflow_service.pause_workflow_execution(
        PauseWorkflowExecutionRequest(namespace="operators", workflow_id="paused", reason=REASON, request_id="1")
    )

    async def is_shown() -> bool:
        return "The workflow is paused." in (await world.cli("show", "paused", namespace="operators")).out

    await until(is_shown)  # a server may take a moment
    assert "paused" in (await world.cli("list", "--parked", namespace="operators")).out
    key = await key_of(world, "paused", "charge")
    said = await world.cli("resolve", "paused", key, "retry", "--who", "a", "--why", "b", namespace="operators")
    assert (said.code, "is paused, and accepts no decision" in said.err) == (1, True)
    await world.with_attribute.workflow_service.terminate_workflow_execution(
        TerminateWorkflowExecutionRequest(
            namespace="operators", workflow_execution=WorkflowExecution(workflow_id="paused"), reason=REASON
        )
    )


async def has_attribute(handle: WorkflowHandle[Any, Any]) -> bool:
    described = await handle.describe()
    return "SagaState" in described.raw_description.workflow_execution_info.search_attributes.indexed_fields
