"""What pytest runs to measure the sandbox in its own process; see `bench/sandbox.py`."""

import json
import os
from pathlib import Path

import pytest

# As pytest does by itself where the package is installed: it brings a plugin.
pytest.register_assert_rewrite("temporal_saga")

from bench.sandbox import measure  # noqa: E402


def test_sandbox() -> None:
    file = Path(os.environ["TEMPORAL_SAGA_BENCH_FILE"])
    file.write_text(json.dumps(measure(float(os.environ["TEMPORAL_SAGA_BENCH_SECONDS"]))), "utf-8")
