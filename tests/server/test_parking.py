"""What waits for a person, on a real server: decided by the client's updates, seen in the list, the metrics, the logs.

The worker has no cache, and each history is replayed when its test ends.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc  # type: ignore[import-untyped, unused-ignore]
import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from examples.dev_server import find_cli
from temporal_saga.plugin import SagaPlugin
from tests.cli.test_problems import refusing

from .parking_workflows import (
    ACTIVITIES,
    ATTRIBUTE,
    DONE,
    LOOKED,
    OVERTAKEN,
    REFUSED,
    WORKFLOWS,
    Case,
    Continues,
    Overtaken,
    Parks,
    ParksByHand,
    Reminds,
)
from .support import History, Replays, Run, Runs, causes, eventually, make_worker, passing

PLAIN = {
    "workflows": WORKFLOWS,
    "activities": ACTIVITIES,
    "workflow_runner": passing(WORKFLOWS),
    "max_cached_workflows": 0,
}
MEMO = "WORKFLOW_PROPERTIES_MODIFIED"


@asynccontextmanager
async def runs_on(client: Client, plugin: SagaPlugin) -> AsyncIterator[Runs]:
    config = client.config()
    config["plugins"] = [plugin]
    queue = str(uuid4())
    async with make_worker(Client(**config), queue, **PLAIN), Replays(WORKFLOWS, plugins=[plugin]) as replays:
        yield Runs(client, queue, WORKFLOWS, replays)


@pytest.fixture(scope="module")
async def plain(client: Client) -> AsyncIterator[Runs]:
    async with runs_on(client, SagaPlugin()) as runs:
        yield runs
        await runs.close()


@pytest.fixture(scope="module")
async def listed(client: Client) -> AsyncIterator[Runs]:
    """The same, with the search attribute."""
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    if ATTRIBUTE not in known.custom_attributes:  # a server that ran before the tests
        keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes={ATTRIBUTE: keyword})
        )
    async with runs_on(client, SagaPlugin(search_attribute=ATTRIBUTE)) as runs:
        yield runs
        await runs.close()


async def start(runs: Runs, parks: str, kind: str = "activity", workflow: Any = Parks) -> Run:
    """Start a saga whose step or undo is refused."""
    id = str(uuid4())
    REFUSED[id] = {"refund" if parks == "undo" else "charge"}
    return await runs.start(workflow.run, Case(id, parks, kind), id=id)


async def parked(run: Run, times: int = 1) -> str:
    """Wait until something is parked for so many times; return its key."""
    await run.event(MEMO, 2 * times - 1)
    (report,) = await run.report()
    assert report["state"] == "PARKED"
    (key,) = [step["key"] for step in report["steps"] if "PARKED" in (step["state"], step["undo_state"])]
    return str(key)


async def decide(run: Run, key: str, action: str, who: str = "ann", why: str = "the bank said so") -> None:
    await asyncio.wait_for(run.handle.execute_update("saga_resolve", args=[key, action, who, why]), 20)


async def ended(run: Run) -> str:
    """Wait until the run has closed; return how: its result, or the kinds of its error and causes."""
    try:
        return str(await asyncio.wait_for(run.handle.result(), 30))
    except Exception as error:
        return " < ".join(causes(error.__cause__))


ENDS = {
    ("undo", "retry"): ("ApplicationError Boom", ["reserve", "charge", "refund", "release"], "DONE"),
    ("undo", "done_by_hand"): ("ApplicationError Boom", ["reserve", "charge", "release"], "BY_HAND"),
    ("undo", "give_up"): ("ApplicationError CompensationError", ["reserve", "charge", "release"], "GIVEN_UP"),
    ("step", "retry"): ("", ["reserve", "charge"], None),
    ("step", "give_up"): ("Error", ["reserve", "refund", "release"], "DONE"),
}
"""How the run ends, what was done, and what the report says of the undo, by what is parked and the decision."""


@pytest.mark.parametrize("kind", ["activity", "child"])
@pytest.mark.parametrize(("parks", "action"), ENDS)
async def test_a_person_decides(plain: Runs, parks: str, action: str, kind: str) -> None:
    """After two retries under the same id, each of which is refused again."""
    run = await start(plain, parks, kind)
    for time in (1, 2):
        key = await parked(run, time)
        await decide(run, key, "retry")
    key = await parked(run, 3)
    if action == "retry":
        REFUSED[run.handle.id].clear()
    await decide(run, key, action)
    end, done, state = ENDS[parks, action]
    assert end in await ended(run)
    assert DONE[run.handle.id] == done
    (report,) = await run.report()
    step = report["steps"][1]
    assert (step["undo_state"], step["who"], step["why"]) == (state, "ann", "the bank said so")
    assert (report["state"] == "INCOMPLETE") == ("CompensationError" in end)
    id = f"charge:{'undo' if parks == 'undo' else 'do'}:{key}"
    assert (await started(run)).count(id) == 3 + (action == "retry")


async def started(run: Run) -> list[str]:
    history = await run.history()
    children = history.of("START_CHILD_WORKFLOW_EXECUTION_INITIATED")
    return [
        *history.ids,
        *(event.start_child_workflow_execution_initiated_event_attributes.workflow_id for event in children),
    ]


@pytest.mark.parametrize("parks", ["undo", "step"])
async def test_a_decision_that_does_not_fit_is_rejected(plain: Runs, parks: str) -> None:
    """With what would be right; and it leaves nothing, not even in the history."""
    run = await start(plain, parks)
    key = await parked(run)
    before = len((await run.history()).events)
    wrong = [
        (("no such key", "retry", "ann", "because"), f"parked now: charge ({key})"),
        ((key, "forget", "ann", "because"), "action must be one of retry"),
        ((key, "retry", " ", "because"), "say who"),
        ((key, "retry", "ann", ""), "say why"),
    ]
    if parks == "step":
        wrong.append(((key, "done_by_hand", "ann", "because"), "a step has a result"))
    for arguments, says in wrong:
        with pytest.raises(WorkflowUpdateFailedError) as caught:
            await decide(run, *arguments)
        cause = caught.value.cause
        assert isinstance(cause, ApplicationError)
        assert cause.type == "SagaNotResolved"
        assert says in cause.message
    assert len((await run.history()).events) == before
    await decide(run, key, "give_up")
    await ended(run)


@pytest.mark.parametrize("parks", ["undo", "step"])
async def test_a_cancel_while_something_is_parked(plain: Runs, parks: str) -> None:
    """It ends the waiting of a step, which is undone; an undo goes on to wait."""
    run = await start(plain, parks)
    key = await parked(run)
    await run.handle.cancel()
    if parks == "undo":
        await run.event("WORKFLOW_EXECUTION_CANCEL_REQUESTED")
        await run.event("WORKFLOW_TASK_COMPLETED", (await run.history()).types.count("WORKFLOW_TASK_SCHEDULED"))
        await decide(run, key, "done_by_hand")
        assert await ended(run) == "ApplicationError Boom"
        assert DONE[run.handle.id] == ["reserve", "charge", "release"]
    else:
        assert await ended(run) == "CancelledError"
        assert await run.status() is WorkflowExecutionStatus.CANCELED
        assert DONE[run.handle.id] == ["reserve", "refund", "release"]


async def test_a_reset_run_parks_again_under_its_key(plain: Runs) -> None:
    run = await start(plain, "undo")
    key = await parked(run)
    (*_, task) = (await run.history()).of("WORKFLOW_TASK_COMPLETED")
    again = await plain.reset(run, task.event_id)
    assert await parked(again) == key
    await decide(again, key, "done_by_hand")
    assert await ended(again) == "ApplicationError Boom"


async def test_a_query_that_overtakes_a_workflow_task(client: Client) -> None:
    """The query was sent before a step ended, when no worker was there. It takes the run ahead of its history.

    A decision, a signal or a cancel that comes with the task replays all the same, and nothing else fails a workflow
    task. Which of the two the next worker gets first, the query or the task, is chance; so there are several of each.
    """
    queue = str(uuid4())
    OVERTAKEN.clear()
    few = {"max_cached_workflows": 100, "max_concurrent_workflow_tasks": 2, "max_concurrent_workflow_task_polls": 2}

    async def overtaken(run: Run, comes: str) -> str:
        looking = asyncio.create_task(run.handle.query(Overtaken.look))
        await OVERTAKEN.wait()
        await eventually(lambda: run.handle.id in LOOKED)
        if comes == "a decision":
            (id,) = (await run.history()).ids
            try:
                await decide(run, id.rpartition(":")[2], "give_up")
            except WorkflowUpdateFailedError:  # it came before the parking
                await decide(run, id.rpartition(":")[2], "give_up")
        elif comes == "a signal":
            await run.handle.signal(Overtaken.also, Case(run.handle.id, "nothing"))
        else:
            await run.handle.cancel()
        await looking
        return await ended(run)

    async with Replays(WORKFLOWS, plugins=[SagaPlugin()]) as replays:
        runs = Runs(client, queue, WORKFLOWS, replays)
        async with make_worker(client, queue, activities=ACTIVITIES):
            async with make_worker(client, queue, workflows=WORKFLOWS, workflow_runner=PLAIN["workflow_runner"]):
                started = [(await start(runs, "step", workflow=Overtaken), comes) for comes in [*COMES] * 3]
                for run, comes in started:
                    if comes != "a decision":
                        REFUSED[run.handle.id].clear()
                    await run.event("ACTIVITY_TASK_SCHEDULED")
            ending = [asyncio.create_task(overtaken(run, comes)) for run, comes in started]
            await asyncio.sleep(0.5)
            OVERTAKEN.set()
            for run, _ in started:
                await run.event("WORKFLOW_TASK_SCHEDULED", 2)
            async with make_worker(client, queue, workflows=WORKFLOWS, workflow_runner=PLAIN["workflow_runner"], **few):
                ends = await asyncio.gather(*ending)
        assert ends == [COMES[comes] for _, comes in started]
        await runs.close()


COMES = {"a decision": "ActivityError < ApplicationError Refused", "a signal": "None", "a cancel": "CancelledError"}
"""What comes with the workflow task, and how the run ends."""


async def test_somebody_is_reminded_until_the_decision(plain: Runs) -> None:
    run = await start(plain, "undo", workflow=Reminds)
    told = "told of undo charge"
    await eventually(lambda: DONE[run.handle.id].count(told) >= 2)
    await decide(run, await parked(run), "done_by_hand")
    assert await ended(run) == "ApplicationError Boom"


def shown(history: History) -> list[str]:
    """What the search attribute was set to, and "" where it was cleared."""
    events = history.of("UPSERT_WORKFLOW_SEARCH_ATTRIBUTES")
    fields = [
        event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields for event in events
    ]
    values = [json.loads(field[ATTRIBUTE].data or "null") for field in fields if ATTRIBUTE in field]
    return [value or "" for value in values]


@pytest.mark.parametrize("action", ["retry", "done_by_hand", "give_up"])
async def test_the_list_of_workflows_shows_what_needs_somebody(listed: Runs, action: str) -> None:
    """And for what is parked, which step, in the memo. At a good end it shows nothing any more."""
    run = await start(listed, "undo")

    async def found(state: str) -> Any:
        query = f'WorkflowId = "{run.handle.id}" AND {ATTRIBUTE} {state}'
        return [each async for each in listed.client.list_workflows(query)]

    key = await parked(run)
    (in_list,) = await eventually(lambda: found('= "PARKED"'))
    assert await in_list.memo() == {"saga_parked": ["charge"]}
    REFUSED[run.handle.id].clear()
    await decide(run, key, action)
    await ended(run)
    incomplete = action == "give_up"
    (in_list,) = await eventually(lambda: found('= "INCOMPLETE"' if incomplete else "IS NULL"))
    assert await in_list.memo() == {}
    assert shown(await run.history()) == ["UNWINDING", "PARKED", "UNWINDING", "INCOMPLETE" if incomplete else ""]


async def test_the_next_run_shows_nothing_of_what_was_parked(listed: Runs) -> None:
    """The server hands the attribute and the memo on to a run that continues as new."""
    run = await start(listed, "step", workflow=Continues)
    await parked(run)
    await run.handle.signal(Continues.tell)

    async def next_run() -> Any:
        query = f'WorkflowId = "{run.handle.id}" AND ExecutionStatus = "Running"'
        found = [each async for each in listed.client.list_workflows(query)]
        return [each for each in found if each.run_id != run.handle.result_run_id]

    (in_list,) = await eventually(next_run)
    assert (dict(in_list.search_attributes).get(ATTRIBUTE), await in_list.memo()) == (None, {})
    await listed.client.get_workflow_handle(run.handle.id).signal(Continues.tell)
    await run.handle.result()


async def test_a_saga_that_succeeds_adds_not_one_event(listed: Runs) -> None:
    """With all that can be switched on: parking, and the search attribute (rule 10)."""
    run = await start(listed, "nothing")
    REFUSED[run.handle.id].clear()
    by_hand = await start(listed, "nothing", workflow=ParksByHand)
    REFUSED[by_hand.handle.id].clear()
    for each in (run, by_hand):
        await each.handle.result()
    assert (await run.history()).types == (await by_hand.history()).types


async def stay_in(worker: Worker) -> None:
    """What a worker's program does."""
    async with worker:
        await asyncio.Event().wait()


@pytest.mark.parametrize("starts", [Worker.run, stay_in], ids=["run", "async with"])
async def test_a_worker_does_not_start_with_an_attribute_that_is_not_registered(
    client: Client, env: WorkflowEnvironment, starts: Callable[[Worker], Awaitable[None]]
) -> None:
    """The worker says so and ends, however it is started. The command that the message gives makes it start."""
    name = f"Saga{uuid4().hex}"
    config = client.config()
    config["plugins"] = [SagaPlugin(search_attribute=name)]
    worker = make_worker(Client(**config), str(uuid4()), **PLAIN)
    with pytest.raises(RuntimeError, match="is not registered in namespace") as caught:
        await asyncio.wait_for(starts(worker), 30)
    _, _, command = str(caught.value).partition("Register it: temporal ")
    address = env.client.service_client.config.target_host
    cli = await asyncio.create_subprocess_exec(find_cli(), *shlex.split(command), "--address", address)
    assert await cli.wait() == 0
    async with make_worker(Client(**config), str(uuid4()), **PLAIN):
        pass


@pytest.mark.parametrize("status", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED])
async def test_a_worker_that_may_not_ask_for_attributes_says_what_to_do(status: grpc.StatusCode) -> None:
    """One error with the right that is missing, in place of the server's own words."""
    with refusing(status) as address:
        client = await Client.connect(address, plugins=[SagaPlugin(search_attribute="SagaState")])
        with pytest.raises(RuntimeError) as caught:
            await make_worker(client, "q", **PLAIN).run()
    said = str(caught.value)
    assert f"whether the search attribute 'SagaState' is registered ({status.name})" in said
    assert "call ListSearchAttributes, or leave search_attribute= out" in said


@pytest.mark.usefixtures("listed")  # registers the attribute
async def test_metrics_logs_and_details_of_a_process(env: WorkflowEnvironment) -> None:
    """Read back from a Prometheus endpoint. What was planted in arguments, results and reasons is in none of them."""
    address = env.client.service_client.config.target_host
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.server.parking_process", address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    output, _ = await asyncio.wait_for(process.communicate(), 50)
    answer = json.loads(output)
    metrics: dict[str, float] = {}
    for line in answer["metrics"].splitlines():
        if line.startswith("temporal_saga_"):
            labels, _, value = line.rpartition(" ")
            name, _, labels = labels.partition("{")
            kept = sorted(each for each in labels.rstrip("}").split(",") if each.split("=")[0] in LABELS)
            metrics[f"{name}{{{','.join(kept)}}}"] = float(value)
    counted = {name: value for name, value in metrics.items() if "_bucket" not in name and "_sum" not in name}
    assert counted == {
        'temporal_saga_completed{outcome="completed",saga="saga"}': 1,
        'temporal_saga_completed{outcome="compensated",saga="saga"}': 1,
        'temporal_saga_completed{outcome="incomplete",saga="saga"}': 1,
        'temporal_saga_compensation_failures{saga="saga",step="charge"}': 1,
        'temporal_saga_parked{saga="saga",step="charge"}': 3,
        'temporal_saga_resolved{action="retry",saga="saga"}': 1,
        'temporal_saga_resolved{action="done_by_hand",saga="saga"}': 1,
        'temporal_saga_resolved{action="give_up",saga="saga"}': 1,
        'temporal_saga_unwind_seconds_count{saga="saga"}': 2,
    }
    errors = [line for line in answer["logged"] if line.startswith("ERROR")]
    assert len([line for line in errors if "is parked until a person decides" in line]) == 3
    assert len([line for line in errors if "incomplete" in line.lower()]) == 1, errors
    details = "".join(seen.get("details", "") for seen in answer["seen"])
    assert "0 of 2 undone, 1 parked" in details
    assert "waits for a person" in details
    described = "".join(seen.get("described", "") for seen in answer["seen"])
    for what in ("saga_parked", ATTRIBUTE, "PARKED"):
        assert what in described
    assert answer["secret"] not in json.dumps([answer["metrics"], answer["logged"], answer["seen"]])


LABELS = ("saga", "step", "outcome", "action")
