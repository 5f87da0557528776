"""Let the SDK download the CLI: ``python _download.py DIRECTORY VERSION``.

A process of its own, because an interpreter may crash at its exit after a start that failed
(github.com/temporalio/sdk-python/issues/300), and because a process can be given up after a time.
"""

from __future__ import annotations

import asyncio
import sys

from temporalio.testing import WorkflowEnvironment


async def download(directory: str, version: str) -> None:
    # The SDK offers no download alone: it is part of starting a server.
    env = await WorkflowEnvironment.start_local(download_dest_dir=directory, dev_server_download_version=version)
    await env.shutdown()


if __name__ == "__main__":
    try:
        asyncio.run(download(sys.argv[1], sys.argv[2]))
    except RuntimeError as err:
        sys.exit(str(err))
