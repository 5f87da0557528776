"""The README's quick start and the tutorial, run as a reader would: pasted into a file."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import httpx
import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

import temporal_saga
from tests.server.support import eventually
from tests.test_docs import load
from tools.release import quick_start, tutorial

README = Path(__file__).parents[2] / "README.md"
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


async def test_quick_start_prints_what_the_readme_says(env: WorkflowEnvironment, tmp_path: Path) -> None:
    code, printed = quick_start(README.read_text())
    output = await run_page(code, env, tmp_path)
    pattern = re.escape(printed).replace(re.escape("..."), r"[0-9a-f-]{36}")
    assert re.fullmatch(pattern, output), output


async def test_the_tutorials_program_prints_what_the_page_says(env: WorkflowEnvironment, tmp_path: Path) -> None:
    """Promise: a reader who runs the program sees how the order ended, well or badly, and no traceback."""
    code, _, shipped, failed = tutorial(TUTORIAL.read_text())
    assert await run_page(code, env, tmp_path, "ups") == f"{shipped}\n"
    assert await run_page(code, env, tmp_path) == f"{failed}\n"


async def test_recipes_a_web_service_starts_a_workflow_and_shows_its_status(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: a request that comes twice starts one workflow, whose answer, a no or a failure, is shown."""
    page = load("recipes")
    page.hotel.bookings.clear()
    monkeypatch.setenv("TEMPORAL_ADDRESS", client.service_client.config.target_host)
    service = httpx.AsyncClient(transport=httpx.ASGITransport(page.app), base_url="http://service")
    worker = Worker(
        client,
        task_queue="stays",
        workflows=[page.Stay],
        activities=[page.book, page.charge, page.cancel_booking, page.refund],
        workflow_runner=UnsandboxedWorkflowRunner(),  # the page is a file for no importer
    )

    async def answer(number: str) -> dict[str, str] | None:
        shown = (await service.get(f"/stays/{number}")).json()
        return shown if shown["status"] != "RUNNING" else None

    async with page.connected(page.app), service:
        assert (await service.get("/stays/none")).status_code == 404
        for _ in range(2):
            sent = await service.put("/stays/1", params={"room": "single"})
            assert (sent.status_code, sent.json()) == (202, {"status": "/stays/1"})
        assert (await service.get("/stays/1")).json() == {"status": "RUNNING"}
        await service.put("/stays/2", params={"room": "suite"})
        await service.put("/stays/3", params={"room": "single"})
        await client.get_workflow_handle("stay-3").cancel()
        async with worker:
            assert await eventually(lambda: answer("1")) == {"status": "COMPLETED", "answer": "booked"}
            declined = "declined: the card has no money for a suite"
            assert await eventually(lambda: answer("2")) == {"status": "COMPLETED", "answer": declined}
            assert (await eventually(lambda: answer("3")))["status"] == "CANCELED"
    assert list(page.hotel.bookings.values()) == ["single"]


async def run_page(code: str, env: WorkflowEnvironment, folder: Path, *arguments: str) -> str:
    """Runs a page's program against the tests' server; returns what it prints."""
    assert "localhost:7233" in code
    script = folder / "page.py"
    script.write_text(code.replace("localhost:7233", env.client.service_client.config.target_host))

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        *arguments,
        env={**os.environ, "PYTHONPATH": str(Path(temporal_saga.__file__).parents[1])},  # the one that is tested
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()

    # A worker's process may crash at its end, when all is done and said (github.com/temporalio/sdk-python/issues/300).
    assert process.returncode in (0, -signal.SIGABRT, -signal.SIGSEGV), errors.decode()
    assert b"Traceback" not in errors, errors.decode()
    return output.decode()
