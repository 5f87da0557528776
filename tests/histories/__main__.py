"""Write the golden histories of the current release anew: `python -m tests.histories`."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from examples.dev_server import dev_server
from temporal_saga import Declined
from temporal_saga.plugin import SagaPlugin
from tests.histories import workflows
from tests.server.support import History, Replays, Runs, make_worker

_IDENTITY = "golden"


@activity.defn
async def work(what: Any) -> str:
    return f"{what} done"


@activity.defn
async def take_back(what: Any) -> None:
    pass


@activity.defn
async def fail(what: str) -> None:
    raise ApplicationError(f"{what} went wrong", type="Boom", non_retryable=True)


@activity.defn
async def decline(what: str) -> None:
    raise Declined(f"{what} is declined")


@activity.defn
async def hang(what: str) -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(0.02)


@activity.defn
async def pause(what: str) -> None:
    await asyncio.sleep(0.5)


ACTIVITIES = [work, take_back, fail, decline, hang, pause]


async def run(runs: Runs, workflow: Any) -> None:
    """Run one of the workflows to its end, with what has to happen meanwhile."""
    arguments = [workflows.Hop(2)] if workflow is workflows.ContinuedAsNew else []
    run = await runs.start(workflow.run, *arguments)
    if workflow is workflows.CancelledInSleep:
        await run.event("TIMER_STARTED")
        await run.handle.cancel()
    elif workflow is workflows.Pivot:
        await run.event("ACTIVITY_TASK_SCHEDULED", 3)
        await run.handle.cancel()
    if workflow in (workflows.Happy, workflows.Rejected):
        await run.handle.result()
    else:
        await run.failure()


def to_json(history: History) -> str:
    """Return the history without what belongs to one machine: an event a line."""
    document = json.loads(history.history.to_json())
    events = [json.dumps(_scrubbed(event), sort_keys=True) for event in document["events"]]
    return '{"events": [\n' + ",\n".join(events) + "\n]}\n"


def _scrubbed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _scrubbed(item) for key, item in value.items() if key != "stackTrace"}
    if isinstance(value, list):
        return [_scrubbed(item) for item in value]
    return value


def names(workflow: type, histories: list[History]) -> dict[str, History]:
    """Name the histories of one run: a number for each but the only one of its workflow type."""
    named: dict[str, History] = {}
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "-", workflow.__name__).lower()
    for number, history in enumerate(histories, 1):
        named[f"{prefix}-{number}" if len(histories) > 1 else prefix] = history
    return named


async def main() -> None:
    release = ".".join(version("temporal-saga").split(".")[:2])
    directory = Path(__file__).parent / release
    directory.mkdir(exist_ok=True)
    for old in directory.glob("*.json"):
        old.unlink()
    async with dev_server(plugins=[SagaPlugin()]) as env:
        client = await Client.connect(
            env.client.service_client.config.target_host, plugins=[SagaPlugin()], identity=_IDENTITY
        )
        async with (
            make_worker(client, "golden", workflows=workflows.WORKFLOWS, activities=ACTIVITIES),
            Replays(workflows.WORKFLOWS) as replays,
        ):
            for workflow in workflows.GOLDEN:
                runs = Runs(client, "golden", workflows.WORKFLOWS, replays)
                await run(runs, workflow)
                for name, history in names(workflow, await runs.histories()).items():
                    path = directory / f"{name}.json"
                    path.write_text(to_json(history))
                    print(f"{path.parent.name}/{path.name}: {len(history.events)} events")
                await runs.close()


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # activities fail on purpose
    asyncio.run(main())
