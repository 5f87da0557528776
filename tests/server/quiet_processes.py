"""What `test_quiet_faults.py` runs in processes of its own: a worker that stalls, and a replay at other addresses.

python -m tests.server.quiet_processes stall <address> <with | without>
python -m tests.server.quiet_processes replay <histories.json>
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from uuid import uuid4

from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer, Worker

from temporal_saga.plugin import SagaPlugin

from .quiet_workflows import WORKFLOWS, Stalls


async def stall(address: str, plugin: str) -> None:
    client = await Client.connect(address, plugins=[SagaPlugin()] if plugin == "with" else [])
    queue = str(uuid4())
    async with Worker(client, task_queue=queue, workflows=[Stalls]):
        print(await client.execute_workflow(Stalls.run, id=queue, task_queue=queue), flush=True)
    print("shut down", flush=True)
    os._exit(0)  # an interpreter that ends right after a worker may crash (sdk-python #300)


async def replay(path: str) -> None:
    # Other addresses than in a process that does the same: some of these objects go, and leave gaps.
    rng = random.Random(os.environ["PYTHONHASHSEED"])
    litter = [bytearray(rng.randrange(100, 400)) for _ in range(5000)]
    for _ in range(2500):
        litter.pop(rng.randrange(len(litter)))
    replayer = Replayer(workflows=WORKFLOWS, plugins=[SagaPlugin()])
    for id, history in json.loads(Path(path).read_text()).items():
        await replayer.replay_workflow(WorkflowHistory.from_json(id, history))
    os._exit(0)  # as above: a replay has a worker, too


if __name__ == "__main__":
    asyncio.run(stall(*sys.argv[2:]) if sys.argv[1] == "stall" else replay(*sys.argv[2:]))
