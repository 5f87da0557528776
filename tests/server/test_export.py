"""The export on a real server: a worker that is killed, a cancel half way, a failure half way."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from examples.export.__main__ import start, until_pages, worker_process, working
from examples.export.activities import Exporter
from examples.export.models import Export
from tests.server.support import causes


class FullDisk(Exporter):
    """Writes half of the pages."""

    @activity.defn
    async def write_pages(self, export: Export) -> str:
        await super().write_pages(Export(export.name, export.pages // 2, 0))
        raise ApplicationError("no space left", non_retryable=True)


class SlowPublisher(Exporter):
    """Publishes when a test says so."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    @activity.defn
    async def publish(self, export: Export, folder: str) -> None:
        self.begun.set()
        await self.go.wait()
        await super().publish(export, folder)


def numbers(lines: list[str]) -> list[int]:
    """At which page each attempt began."""
    return [int(found.group(1)) for line in lines if (found := re.search(r"begins at page (\d+)", line))]


async def test_another_worker_goes_on_where_a_killed_one_stopped(client: Client, tmp_path: Path) -> None:
    exporter, queue = Exporter(tmp_path), f"x-{uuid4()}"
    async with worker_process(client, tmp_path, queue):
        handle = await start(client, Export("sales", 60, 0.05), queue)
        await until_pages(exporter, 40)
    stopped = exporter.pages()
    async with working(client, exporter, queue):
        await handle.result()
    first, second = numbers(exporter.log())
    assert (first, 0 < second <= stopped < 60) == (0, True), exporter.log()
    assert (exporter.pages(), exporter.log()[-1]) == (60, "sales: published")


async def test_a_cancel_half_way_removes_the_half(client: Client, tmp_path: Path) -> None:
    exporter, queue = Exporter(tmp_path), f"x-{uuid4()}"
    async with working(client, exporter, queue):
        handle = await start(client, Export("sales", 10_000, 0.05), queue)
        await until_pages(exporter, 5)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as error:
            await handle.result()
    assert causes(error.value.cause) == ["CancelledError"]
    assert (exporter.pages(), exporter.log()[-1]) == (0, "sales: removed")


async def test_a_cancel_after_the_last_page_publishes(client: Client, tmp_path: Path) -> None:
    exporter, queue = SlowPublisher(tmp_path), f"x-{uuid4()}"
    async with working(client, exporter, queue):
        handle = await start(client, Export("sales", 3, 0), queue)
        await asyncio.wait_for(exporter.begun.wait(), 20)
        await handle.cancel()
        exporter.go.set()
        with pytest.raises(WorkflowFailureError) as error:
            await handle.result()
    assert causes(error.value.cause) == ["CancelledError"]
    assert (exporter.pages(), exporter.log()[-1]) == (3, "sales: published")


async def test_a_failure_half_way_removes_the_half(client: Client, tmp_path: Path) -> None:
    exporter, queue = FullDisk(tmp_path), f"x-{uuid4()}"
    async with working(client, exporter, queue):
        handle = await start(client, Export("sales", 10), queue)
        with pytest.raises(WorkflowFailureError) as error:
            await handle.result()
    assert causes(error.value.cause)[0] == "ActivityError"
    assert (exporter.pages(), exporter.log()[-1]) == (0, "sales: removed")
