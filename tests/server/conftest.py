"""One worker for nearly all server tests, and the replay of every history they make.

The workers pass the modules of these workflows through the sandbox, the replay does not: so each run executes in the
sandbox, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from tests.textbook import TEXTBOOK

from .support import Replays, Runs, make_worker, passing
from .workflows import WORKFLOWS
from .world import ACTIVITIES

ALL = [*WORKFLOWS, *TEXTBOOK]
RUNNER = passing(ALL)


@pytest.fixture(scope="session")
async def shared_worker(client: Client) -> AsyncIterator[str]:
    # Without a cache each workflow task replays the run from its beginning, and evicts it after.
    queue = "shared"
    async with make_worker(
        client, queue, workflows=ALL, activities=ACTIVITIES, workflow_runner=RUNNER, max_cached_workflows=0
    ):
        yield queue


@pytest.fixture(scope="session")
async def caching_worker(client: Client) -> AsyncIterator[str]:
    queue = "caching"
    async with make_worker(client, queue, workflows=ALL, activities=ACTIVITIES, workflow_runner=RUNNER):
        yield queue


@pytest.fixture(scope="session")
async def replays() -> AsyncIterator[Replays]:
    async with Replays(ALL) as replays:
        yield replays


@pytest.fixture
async def runs(client: Client, shared_worker: str, replays: Replays) -> AsyncIterator[Runs]:
    runs = Runs(client, shared_worker, WORKFLOWS, replays)
    yield runs
    await runs.close()


@pytest.fixture
async def cached_runs(client: Client, caching_worker: str, replays: Replays) -> AsyncIterator[Runs]:
    """Runs on a worker with a cache, for tests that send updates.

    Without one, temporalio 1.35 may hand an update to the workflow before the activity results of
    an earlier workflow task that gave no command: the next replay then fails. A workflow without
    this library shows the same.
    """
    runs = Runs(client, caching_worker, WORKFLOWS, replays)
    yield runs
    await runs.close()
