"""The README's quick start, run as a reader would: pasted into a file."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path

from temporalio.testing import WorkflowEnvironment

README = Path(__file__).parents[2] / "README.md"


async def test_quick_start_prints_what_the_readme_says(env: WorkflowEnvironment, tmp_path: Path) -> None:
    text = README.read_text()
    code, printed = re.findall(r"<!-- quick start.*?```python\n(.*?)```.*?```text\n(.*?)```", text, re.DOTALL)[0]
    address = env.client.service_client.config.target_host
    assert "localhost:7233" in code
    script = tmp_path / "transfer.py"
    script.write_text(code.replace("localhost:7233", address))

    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()

    # A worker's process may crash at its end, when all is done and said (github.com/temporalio/sdk-python/issues/300).
    assert process.returncode in (0, -signal.SIGABRT, -signal.SIGSEGV), errors.decode()
    assert b"Traceback" not in errors, errors.decode()
    pattern = re.escape(printed).replace(re.escape("..."), r"[0-9a-f-]{36}")
    assert re.fullmatch(pattern, output.decode()), output.decode()
