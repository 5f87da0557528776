"""The README's quick start and the tutorial, run as a reader would: pasted into a file."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

from temporalio.testing import WorkflowEnvironment

import temporal_saga
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
