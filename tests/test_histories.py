"""The histories of every release replay on this one, from their beginning to each point."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory

from temporal_saga import Saga, presets
from tests.histories.workflows import GOLDEN, WORKFLOWS
from tests.server.support import History, Replays

DIRECTORY = Path(__file__).parent / "histories"
FILES = sorted(DIRECTORY.glob("*/*.json"))


def load(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json("golden", path.read_text())


@pytest.fixture(scope="module")
async def replays() -> AsyncIterator[Replays]:
    async with Replays(WORKFLOWS) as replays:
        yield replays


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}/{path.stem}" for path in FILES])
async def test_rule_09_a_golden_history_replays(replays: Replays, path: Path) -> None:
    history = History(load(path))
    # To each workflow task, as a worker without a cache does it, and then the whole.
    for event in history.of("WORKFLOW_TASK_STARTED"):
        await replays.replay(history.until(event.event_id))
    await replays.replay(history)


def test_rule_09_each_golden_workflow_has_its_history() -> None:
    kept = {load(path).events[0].workflow_execution_started_event_attributes.workflow_type.name for path in FILES}
    assert {golden.__name__ for golden in GOLDEN} <= kept


@workflow.defn(name="CancelledInSleep")
class _Otherwise:
    """Does with its first step what no release may do: give it another id."""

    @workflow.run
    async def run(self) -> None:
        async with Saga("renamed", activity_options=presets.standard()) as saga:
            await saga.execute_activity("work", "a", compensation="take_back", step="a")
            await workflow.sleep(3600)


async def test_rule_09_a_history_of_other_commands_is_found_out() -> None:
    async with Replays([_Otherwise]) as replays:
        with pytest.raises(workflow.NondeterminismError, match="Activity id"):
            await replays.replay(History(load(DIRECTORY / "0.1" / "cancelled-in-sleep.json")))
