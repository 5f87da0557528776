"""A worker in a process of its own, for a test to kill: `python -m tests.server.worker`."""

from __future__ import annotations

import asyncio
import sys

from temporalio.client import Client

from temporal_saga.plugin import SagaPlugin

from .support import make_worker, passing
from .workflows import WORKFLOWS
from .world import ACTIVITIES


async def main(address: str, queue: str) -> None:
    client = await Client.connect(address, plugins=[SagaPlugin()])
    runner = passing(WORKFLOWS)
    await make_worker(client, queue, workflows=WORKFLOWS, activities=ACTIVITIES, workflow_runner=runner).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
