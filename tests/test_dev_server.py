"""How a Temporal CLI is found, or built once, by programs that know nothing of each other."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples.dev_server import DevServerError, free_port
from examples.dev_server._cli import cache_directory, pinned_version
from examples.dev_server._server import _check_time_skipping

# A `go` that notes how it was called, takes a while, and writes what it was asked to build.
GO = """#!{python}
import os, sys, time
from pathlib import Path
with open(os.environ["GO_LOG"], "a") as log:
    print(*sys.argv[1:], sep="\\n", file=log)
print("go: downloading example.com/module v1.0.0", file=sys.stderr, flush=True)
time.sleep(float(os.environ.get("GO_SECONDS", "0")))
if "GO_FAILS" in os.environ:
    sys.exit("example.com/module: checksum mismatch")
built = Path(sys.argv[sys.argv.index("-o") + 1])
built.write_text("built")
built.chmod(0o755)
"""


class Machine:
    """A machine of which nothing is known but what a test installs on it."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.bin.mkdir()
        self.cache = root / "cache" / "temporal-saga"
        self.go_log = root / "go.log"
        self.environment = {
            "PATH": str(self.bin),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "XDG_CACHE_HOME": str(self.cache.parent),
            "GO_LOG": str(self.go_log),
            # Nothing listens there: the SDK's download fails at once, whatever the network.
            "HTTPS_PROXY": f"http://127.0.0.1:{free_port()}",
        }
        self.started: list[subprocess.Popen[str]] = []

    def install(self, name: str, text: str = "") -> Path:
        path = self.bin / name
        path.write_text(text.replace("{python}", sys.executable))
        path.chmod(0o755)
        return path

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Start a program that looks for the CLI and prints its path."""
        process = subprocess.Popen(
            [sys.executable, "-m", "examples.dev_server"],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def find(self, **environment: str) -> str:
        """Run such a program to its end; return what it printed."""
        out, err = self.start(**environment).communicate()
        assert not err or "dev server: " in err, err
        return out.strip()

    def fail(self, **environment: str) -> str:
        """Run such a program, which must fail; return its error."""
        process = self.start(**environment)
        out, err = process.communicate()
        assert process.returncode == 1
        assert not out
        assert "Traceback" not in err
        return err

    def builds(self) -> int:
        return self.go_log.read_text().split("\n").count("build") if self.go_log.exists() else 0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for process in machine.started:
        process.kill()
        process.communicate()


def test_temporal_cli_comes_before_the_path_and_the_path_before_the_cache(machine: Machine) -> None:
    on_path = machine.install("temporal")
    named = machine.install("my-temporal")
    cached = machine.cache / f"temporal-{pinned_version()}"
    cached.parent.mkdir(parents=True)
    cached.touch(0o755)
    assert machine.find(TEMPORAL_CLI=str(named)) == str(named)
    assert machine.find() == str(on_path)
    on_path.unlink()
    assert machine.find() == str(cached)


def test_a_cli_that_is_named_and_missing_is_an_error(machine: Machine) -> None:
    machine.install("temporal")
    error = machine.fail(TEMPORAL_CLI="/missing")
    assert "TEMPORAL_CLI=/missing is not an executable file" in error


def test_without_any_way_the_error_lists_them_all(machine: Machine) -> None:
    error = machine.fail()
    for way in ("TEMPORAL_ADDRESS", "TEMPORAL_CLI", "on the PATH", "download", "Go"):
        assert way in error
    assert "building with Go: no `go` on the PATH" in error


def test_go_builds_what_our_go_mod_pins_and_the_next_one_reuses_it(machine: Machine) -> None:
    machine.install("go", GO)
    cli = machine.find()
    assert Path(cli) == machine.cache / f"temporal-{pinned_version()}"
    assert os.access(cli, os.X_OK)
    arguments = machine.go_log.read_text().split("\n")
    assert (Path(arguments[arguments.index("-C") + 1]) / "go.sum").exists()
    assert "-mod=readonly" in arguments
    assert machine.find() == cli
    assert machine.builds() == 1


def test_a_build_that_fails_says_why_and_leaves_nothing_behind(machine: Machine) -> None:
    machine.install("go", GO)
    assert "example.com/module: checksum mismatch" in machine.fail(GO_FAILS="1")
    assert [path.suffix for path in machine.cache.iterdir()] == [".lock"]
    assert machine.find()


def test_of_two_at_once_one_builds_and_the_other_waits_and_says_so(machine: Machine) -> None:
    machine.install("go", GO)
    both = [machine.start(GO_SECONDS="2"), machine.start(GO_SECONDS="2")]
    results = [process.communicate() for process in both]
    assert results[0][0] == results[1][0] != ""
    assert sum("waiting for it" in err for _, err in results) == 1
    assert machine.builds() == 1


def test_a_builder_that_was_killed_blocks_no_one(machine: Machine) -> None:
    machine.install("go", GO)
    killed = machine.start(GO_SECONDS="5")
    until = time.monotonic() + 20
    while not machine.builds() and time.monotonic() < until:
        time.sleep(0.05)
    assert machine.builds() == 1
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    abandoned = machine.cache / f"temporal-{pinned_version()}.1.part"
    abandoned.touch()
    assert machine.find()
    assert machine.builds() == 2
    assert not abandoned.exists()


def test_a_cache_that_cannot_be_written_is_explained(machine: Machine) -> None:
    machine.cache.parent.write_text("a file, where a directory should be")
    assert "set XDG_CACHE_HOME" in machine.fail()


@pytest.mark.parametrize("home", ["", None])
def test_the_cache_has_a_place_without_a_home(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # The XDG specification: a relative path counts as none.
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", home)
    expected = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache" / "temporal-saga"
    assert cache_directory() == expected


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
