"""A worker of sagas that park, with a Prometheus endpoint: the metrics and the logs of a process of its own.

python -m tests.server.parking_process <address>
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import timedelta
from urllib.request import urlopen
from uuid import uuid4

from temporalio.client import Client, WorkflowFailureError
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from examples.dev_server import free_port
from temporal_saga.plugin import SagaPlugin

from .parking_workflows import ACTIVITIES, ATTRIBUTE, REFUSED, WORKFLOWS, Case, Parks
from .support import eventually, make_worker, passing

PLANS = {"completed": [], "compensated": ["retry", "done_by_hand"], "incomplete": ["give_up"]}
"""How the sagas end, and what somebody decides until then."""


async def decide(client: Client, outcome: str, queue: str, secret: str) -> dict[str, str]:
    """Run one saga; return what can be seen of it while something is parked."""
    id = str(uuid4())
    case = Case(id, "nothing" if outcome == "completed" else "undo", secret=secret)
    seen: dict[str, str] = {}
    REFUSED[id] = {"refund"}
    handle = await client.start_workflow(Parks.run, case, id=id, task_queue=queue)

    async def parked_key() -> str | None:
        (report,) = await handle.query("saga_report") or [{"steps": []}]
        keys: list[str] = [step["key"] for step in report["steps"] if step["undo_state"] == "PARKED"]
        return keys[0] if keys else None

    for action in PLANS[outcome]:
        key = await eventually(parked_key)
        seen["details"] = str(await handle.query("__temporal_workflow_metadata"))
        seen["described"] = str((await handle.describe()).raw_description.workflow_execution_info)
        await handle.execute_update("saga_resolve", args=[key, action, "ann", f"because {secret}"])
    try:
        await handle.result()
    except WorkflowFailureError:
        assert outcome != "completed"
    return seen


def scrape(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        return str(page.read().decode())


async def run(address: str) -> None:
    secret = f"secret-{uuid4()}"
    logged: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(f"{record.levelname} {record.getMessage()} {vars(record)}")

    logger = logging.getLogger("temporalio.workflow")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Keep())
    port = free_port()
    runtime = Runtime(telemetry=TelemetryConfig(metrics=PrometheusConfig(bind_address=f"127.0.0.1:{port}")))
    client = await Client.connect(address, plugins=[SagaPlugin(search_attribute=ATTRIBUTE)], runtime=runtime)
    queue = str(uuid4())
    runner = passing(WORKFLOWS)
    async with make_worker(client, queue, workflows=WORKFLOWS, activities=ACTIVITIES, workflow_runner=runner):
        seen = await asyncio.gather(*[decide(client, outcome, queue, secret) for outcome in PLANS])
    metrics = await asyncio.to_thread(scrape, port)
    print(json.dumps({"secret": secret, "metrics": metrics, "logged": logged, "seen": seen}), flush=True)
    await asyncio.sleep(timedelta(milliseconds=300).total_seconds())  # sdk-python 300, as in `examples/dev_server`


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
