"""Runs pytest over and over, each time in a fork that has the dependencies loaded: to import them takes a second.

A script, not a module of `tests`: a fork must find nothing of the project imported. It reads requests, one a line, and
answers each with the exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from typing import Any

import pytest

# Not pytest's plugins, which pytest rewrites as it imports them.
PRELOADED = ["aiosqlite", "psycopg", "sqlalchemy", "temporalio.testing", "temporalio.worker.workflow_sandbox"]


def run(request: dict[str, Any]) -> int:
    """Run pytest in a directory that comes first of all to import from."""
    child = os.fork()
    if child == 0:
        out = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(request["bed"])
        sys.path[0] = request["bed"]  # in place of this script's directory
        os.environ["PYTHONPATH"] = request["bed"]
        code = pytest.main(request["arguments"])
        sys.stdout.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        print(run(json.loads(line)), flush=True)
