"""The server that the tests and the examples run on."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio import workflow
from temporalio.client import Client, Plugin
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from examples.dev_server import dev_server
from temporal_saga.plugin import SagaPlugin


# In the sandbox each run would import pytest anew.
@workflow.defn(sandboxed=False)
class Sleeper:
    @workflow.run
    async def run(self, days: int) -> float:
        start = workflow.now()
        for _ in range(days):
            await workflow.sleep(timedelta(days=1))
        return (workflow.now() - start) / timedelta(days=1)


async def sleep(client: Client, days: int) -> float:
    queue = str(uuid4())
    async with Worker(client, task_queue=queue, workflows=[Sleeper]):
        return await client.execute_workflow(Sleeper.run, days, id=queue, task_queue=queue)


async def test_a_server_that_is_running_is_attached_to_and_left_running(
    env: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = env.client.service_client.config.target_host
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    plugin: Plugin = SagaPlugin()
    async with dev_server(plugins=[plugin]) as attached:
        assert attached.client.service_client.config.target_host == address
        assert attached.client.config()["plugins"] == [plugin]
    assert await sleep(env.client, 0) == 0


@pytest.mark.time_skipping
async def test_days_pass_in_a_moment_also_beside_a_server_that_is_running(
    env: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", env.client.service_client.config.target_host)
    async with dev_server(time_skipping=True) as own:
        start = time.monotonic()
        assert await sleep(own.client, 7) >= 7
        # Without the setting for its timers the server takes a second for each.
        assert time.monotonic() - start < 6


async def test_skips_are_not_limited_to_the_servers_default_of_two_hundred(
    time_skipping_env: WorkflowEnvironment,
) -> None:
    # No worker: what the server has taken over tells; 200 skips would take 40 s.
    handle = await time_skipping_env.client.start_workflow(Sleeper.run, 0, id=str(uuid4()), task_queue="none")
    info = await time_skipping_env.get_time_skipping_info(handle)
    assert info is not None
    assert info.effective_config.max_session_skip_count == 100_000
    await handle.terminate()


async def test_nothing_of_the_user_reaches_the_server_or_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_ENV", "of-the-user")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "missing.toml"))
    monkeypatch.delenv("TEMPORAL_ADDRESS", raising=False)
    async with dev_server() as env:
        assert await sleep(env.client, 0) == 0
    assert list(tmp_path.iterdir()) == []


async def test_a_database_outlives_its_server(tmp_path: Path) -> None:
    database = tmp_path / "temporal.db"
    async with dev_server(database=database) as env:
        await env.client.start_workflow(Sleeper.run, 0, id="sleeper", task_queue="sleepers")
    async with dev_server(database=database) as env, Worker(env.client, task_queue="sleepers", workflows=[Sleeper]):
        assert await env.client.get_workflow_handle("sleeper").result() == 0
