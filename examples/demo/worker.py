"""A worker for both sides of a story about money, as a process that can be killed."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from temporalio.client import Client
from temporalio.envconfig import ClientConfig

from examples.demo.stage import MoneySide, Stage


async def run(folder: Path, run_id: str, story: int) -> None:
    """Works until it is killed."""
    client = await Client.connect(**ClientConfig.load_client_connect_config())
    with ThreadPoolExecutor() as threads:
        stage = Stage(client, folder, run_id, threads)
        async with stage.open:
            for name in ("saga", "textbook"):
                await MoneySide(stage, story, name).enter()
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
