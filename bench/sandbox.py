"""What the library costs a run in the sandbox, which imports the workflow's modules each time, without the plugin.

Also in a process of pytest, which rewrites what is imported: the package's entry point makes it look at the library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from bench.recording import Recording, least_seconds
from bench.sandboxed.imported import Imported
from bench.sandboxed.with_saga import WithSaga
from bench.sandboxed.without import Without

STEPS = 5


def measure(budget: float) -> tuple[float, float, float]:
    """Return the least milliseconds of a run without the library, with an import of it, and with a saga."""
    recordings = [Recording(kind, STEPS, runner=SandboxedWorkflowRunner()) for kind in (Without, Imported, WithSaga)]
    without, imported, saga = least_seconds(*recordings, budget=budget)
    return without * 1e3, imported * 1e3, saga * 1e3


def measure_under_pytest(budget: float) -> tuple[float, float, float]:
    """Return the same, measured by a process that runs pytest."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "measured.json")
        command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", directory]
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", str(here / "under_pytest.py")],
            cwd=here.parent,
            env={**os.environ, "TEMPORAL_SAGA_BENCH_FILE": str(file), "TEMPORAL_SAGA_BENCH_SECONDS": str(budget)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        without, imported, saga = json.loads(file.read_text("utf-8"))
    return without, imported, saga


def report(budget: float) -> None:
    """Print the lines; `budget` is about how many seconds one takes."""
    print(f"the sandbox, without the plugin: milliseconds of a run of {STEPS} steps (goal: with a saga, at most +1 ms)")
    print(f"{'':>14} {'without the library':>20} {'imported':>10} {'more':>7} {'with a saga':>12} {'more':>7}")
    for place, measured in (("plain Python", measure), ("in pytest", measure_under_pytest)):
        without, imported, saga = measured(budget)
        line = f"{place:>14} {without:>20.2f} {imported:>10.2f} {imported - without:>+7.2f}"
        print(f"{line} {saga:>12.2f} {saga - without:>+7.2f}", flush=True)
