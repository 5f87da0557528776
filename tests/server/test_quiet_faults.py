"""Faults that make no noise in a test of one process, on the real server: order, eviction, stalls, who ends first."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowContinuedAsNewError, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from temporal_saga.plugin import SagaPlugin

from . import quiet_workflows
from .quiet_workflows import ACTIVITIES, NAMES, WORKFLOWS, BothWake, Finally, Swallows
from .support import History, eventually, kind, make_worker

groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup and timeout came with Python 3.11")


async def process(*args: str, seconds: float, **env: str) -> tuple[int | None, str, str]:
    """Run `quiet_processes` in a process of its own; return how it ended, None if it had to be killed."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.server.quiet_processes",
        *args,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    talk = asyncio.create_task(child.communicate())
    done, _ = await asyncio.wait([talk], timeout=seconds)
    if not done:
        child.kill()
    out, err = await talk
    return (child.returncode if done else None), out.decode(), err.decode()


# --- order (A3) ---


@groups
@pytest.mark.parametrize("how", ["fails", "is cancelled"])
@pytest.mark.parametrize("what", ["savepoints", "sagas", "steps"])
async def test_rule_09_a_task_group_replays_in_other_processes(
    client: Client, tmp_path: Path, what: str, how: str
) -> None:
    """Savepoints, sagas, steps in a `TaskGroup` replay at every workflow task, and in processes of another layout.

    The worker has no cache, so that each workflow task replays the run; the whole is replayed in three processes, each
    with another `PYTHONHASHSEED`.
    """
    run: Any = quiet_workflows.Grouped.run  # type: ignore[attr-defined,unused-ignore]
    queue = str(uuid4())
    async with make_worker(client, queue, workflows=WORKFLOWS, activities=ACTIVITIES, max_cached_workflows=0):
        handle: WorkflowHandle[Any, Any] = await client.start_workflow(
            run, args=[what, how], id=queue, task_queue=queue
        )
        if how == "is cancelled":
            await eventually(lambda: all_are_ready(handle, what))
            await handle.cancel()
        with pytest.raises(WorkflowFailureError) as caught:
            await asyncio.wait_for(handle.result(), 40)
    assert isinstance(caught.value.cause, CancelledError) == (how == "is cancelled")
    history = History(await handle.fetch_history())
    undone = history.undone
    assert len(undone) == len(NAMES)
    path = tmp_path / "histories.json"
    path.write_text(json.dumps({handle.id: history.history.to_json()}))
    for seed in "123":
        code, _, err = await process("replay", str(path), seconds=30, PYTHONHASHSEED=seed)
        assert code == 0, err


async def all_are_ready(handle: WorkflowHandle[Any, Any], what: str) -> bool:
    if await handle.query("parts") != len(NAMES):
        return False
    history = History(await handle.fetch_history())
    return what != "steps" or len(history.of("ACTIVITY_TASK_SCHEDULED")) == len(NAMES)


# --- eviction (B9, E6) ---


@pytest.mark.parametrize("workflow", [Finally, Swallows])
async def test_rule_04_an_eviction_leaves_no_task_behind(
    client: Client, caplog: pytest.LogCaptureFixture, workflow: Any
) -> None:
    """A run is evicted after each workflow task, whatever its tasks do with the `CancelledError` that they get.

    Siblings: a sibling's `finally` that calls a step while the scope unwinds; a body that swallows the error and ends
    its scope over a savepoint in flight.
    """
    queue = str(uuid4())
    caplog.set_level(logging.WARNING)
    async with make_worker(client, queue, workflows=WORKFLOWS, activities=ACTIVITIES, max_cached_workflows=0):
        with suppress(WorkflowFailureError):
            await client.execute_workflow(workflow.run, id=queue, task_queue=queue)
    stuck = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert stuck == []


# --- a stall (D1) ---


@pytest.mark.parametrize("plugin", ["without", "with"])
async def test_rule_12_a_stall_is_survived(env: WorkflowEnvironment, plugin: str) -> None:
    """A run that stalls for longer than the SDK's deadlock detector waits recovers with the plugin as without it."""
    address = env.client.service_client.config.target_host
    code, out, err = await process("stall", address, plugin, seconds=30)
    said = [line for line in out.splitlines() if line in ("done", "shut down")]  # Core logs there, too
    assert said == ["done", "shut down"], err[-2000:]
    assert code == 0, err


# --- who ends first (D2) ---

TABLE = [
    ("return", "raise", "COMPLETED", "main"),
    ("return", "continue_as_new", "COMPLETED", "main"),
    ("continue_as_new", "raise", "CONTINUED_AS_NEW", None),
    ("raise", "raise", "FAILED", "main"),
]


@pytest.mark.parametrize("plugins", [[], [SagaPlugin()]], ids=["without", "with"])
@pytest.mark.parametrize(("main", "handler", "status", "whose"), TABLE)
async def test_rule_12_the_first_to_end_the_run_wins(
    env: WorkflowEnvironment, plugins: list[SagaPlugin], main: str, handler: str, status: str, whose: str | None
) -> None:
    """The main method, which wakes first, closes the run; and the history replays without the plugin and with it."""
    queue = str(uuid4())
    async with make_worker(env.client, queue, workflows=WORKFLOWS, activities=ACTIVITIES, plugins=plugins):
        handle = await env.client.start_workflow(BothWake.run, args=[main, handler], id=queue, task_queue=queue)
        await eventually(lambda: waits(handle, [True, False]))
        await handle.signal(BothWake.work)
        await eventually(lambda: waits(handle, [True, True]))
        await handle.signal(BothWake.go)
        told: Any = None
        if status != "CONTINUED_AS_NEW":
            try:
                told = await handle.result(follow_runs=False)
            except WorkflowContinuedAsNewError:
                told = "nobody"
            except WorkflowFailureError as error:
                told = kind(error.cause).split()[-1]  # the type of an ApplicationError
        run = env.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        history = await eventually(lambda: closed(run))
        with suppress(RPCError):  # it has ended, unless it continued as new
            await env.client.get_workflow_handle(handle.id).terminate("the test is over")
    assert history.types[-1].endswith(f"EXECUTION_{status}")
    assert told == whose
    for other in ([], [SagaPlugin()]):
        await Replayer(workflows=WORKFLOWS, plugins=other).replay_workflow(history.history)


async def waits(handle: WorkflowHandle[Any, Any], expected: list[bool]) -> bool:
    return await handle.query(BothWake.waits) == expected


async def closed(run: WorkflowHandle[Any, Any]) -> History | None:
    history = History(await run.fetch_history())
    closes = ("COMPLETED", "FAILED", "CONTINUED_AS_NEW", "CANCELED")
    return (
        history if history.types[-1].startswith("WORKFLOW_EXECUTION") and history.types[-1].endswith(closes) else None
    )


# --- a deadline and a timeout (E4) ---


@groups
@pytest.mark.parametrize("seconds", [1, 2], ids=["together", "while the saga unwinds"])
async def test_rule_05_a_deadline_does_not_swallow_a_timeout(client: Client, seconds: float) -> None:
    """A timeout that expires together with the deadline of a saga inside, or while that unwinds, still fires."""
    run: Any = quiet_workflows.TimesOut.run  # type: ignore[attr-defined,unused-ignore]
    queue = str(uuid4())
    async with make_worker(client, queue, workflows=WORKFLOWS, activities=ACTIVITIES):
        handle = await client.start_workflow(run, args=[seconds], id=queue, task_queue=queue)
        try:
            assert await asyncio.wait_for(handle.result(), 15) == "timed out"
        finally:
            with suppress(Exception):
                await handle.terminate("the test is over")
    assert History(await handle.fetch_history()).undone == ["do"]
