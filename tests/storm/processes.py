"""The processes that get killed: a dev server with its data in a file, and workers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

import temporal_saga
from examples.dev_server import find_cli, free_port
from tests.mutants import HERE, parse

T = TypeVar("T")

ATTRIBUTE = "SagaState"
_ANSWERS = (
    RPCStatusCode.NOT_FOUND,
    RPCStatusCode.ALREADY_EXISTS,
    RPCStatusCode.INVALID_ARGUMENT,
    RPCStatusCode.FAILED_PRECONDITION,
)
ROOT = Path(__file__).parents[2]


class Server:
    """A dev server whose data survive it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, on the same port and file as before."""
        quick = ("history.timerProcessorMaxTimeShift", '"1ms"')  # by default it looks at its timers once a second
        files = ("--db-filename", str(self._directory / "temporal.sqlite3"), "--sqlite-pragma", "journal_mode=wal")
        self._process = subprocess.Popen(
            [
                *(str(find_cli()), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(self._port)),
                *(*files, "--log-level", "never", "--search-attribute", f"{ATTRIBUTE}=Keyword"),
                *("--dynamic-config-value", "=".join(quick)),
            ],
            env={"HOME": str(self._directory)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def connect(self) -> Client:
        """Wait until it answers; return a client, which outlives the server."""
        client = await insist(lambda: Client.connect(self.address, runtime=_quiet()), RuntimeError)
        await insist(lambda: client.workflow_service.get_system_info(GetSystemInfoRequest(), retry=False))
        return client

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@cache
def _quiet() -> Runtime:
    """A runtime that does not log each call to a server that is away."""
    return Runtime(telemetry=TelemetryConfig(logging=None))


async def insist(call: Callable[[], Awaitable[T]], *errors: type[Exception], seconds: float = 60) -> T:
    """Call until it does not fail because the server is away."""
    end = asyncio.get_running_loop().time() + seconds
    away: tuple[type[Exception], ...] = (RPCError, *errors)
    while True:
        try:
            return await call()
        except away as error:
            # A server that has just been started does not know its namespaces yet.
            starting = str(error).startswith("Namespace")
            answered = isinstance(error, RPCError) and error.status in _ANSWERS and not starting
            if answered or asyncio.get_running_loop().time() > end:
                raise
            await asyncio.sleep(0.1)


@dataclass(frozen=True)
class Setting:
    """What a worker has to know.

    Attributes:
        address: The server's.
        ledger: Where the transfers' ledger is.
        directory: Where the rest is: the shop's file, and what the operator has healed.
        seed: Of the plan of faults.
        faults: Whether the providers have faults by that plan.
        refused: The activities that are refused until the operator has healed them.
        pauses: Whether each workflow task and each activity waits a moment, so that a kill finds it at work.
        keys: Whether the providers honor keys.
        undos_refused: Whether the plan may refuse an undo for good: by hand nobody would be asked.
    """

    address: str
    ledger: str
    directory: str
    seed: str = ""
    faults: bool = False
    refused: tuple[str, ...] = ()
    pauses: bool = False
    keys: bool = True
    undos_refused: bool = True


class Workers:
    """Worker processes. A spare one has done its imports already, so that the dead are soon replaced.

    Attributes:
        release: Of the workflows, "previous" or "current": what is started from now on runs it.
    """

    def __init__(self, setting: Setting, count: int, bed: Path = ROOT, release: str = "current") -> None:
        self.release = release
        self._setting = setting
        self._bed = bed
        self._spare = self._begin()
        self._running: list[subprocess.Popen[bytes]] = []
        self._old: list[subprocess.Popen[bytes]] = []
        for _ in range(count):
            self.start()

    def _begin(self) -> subprocess.Popen[bytes]:
        log = Path(self._setting.directory) / "workers.log"
        with log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.storm.worker", json.dumps(asdict(self._setting))],
                cwd=self._bed,
                env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "") if self._bed == ROOT else ""},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )

    def start(self) -> None:
        """Start one more."""
        assert self._spare.stdin is not None
        self._spare.stdin.write(f"{self.release}\n".encode())
        self._spare.stdin.flush()
        self._running.append(self._spare)
        self._spare = self._begin()

    def __len__(self) -> int:
        return len(self._running)

    def roll(self) -> None:
        """Start one more in place of the oldest, which is told to end as a deployment does: with SIGTERM."""
        if self._running:
            self._old.append(self._running.pop(0))
            self.start()
            self._old[-1].terminate()

    def kill(self, which: int = 0) -> None:
        """End one with SIGKILL."""
        if self._running:
            _end(self._running.pop(which % len(self._running)))

    def close(self) -> None:
        """End them all."""
        for process in (*self._running, *self._old, self._spare):
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with process:  # waits, and closes its input
        pass


def broken_copy(bed: Path, mutant: str) -> Path:
    """Make a directory to run workers in, whose copy of the library is broken by one of `tests/mutants`."""
    package = bed / "temporal_saga"
    shutil.copytree(Path(temporal_saga.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "examples", "pyproject.toml"):
        (bed / name).symlink_to(ROOT / name)
    patch = parse(HERE / f"{mutant}.patch")
    file = package / patch.file
    file.write_text(patch.applied_to(file.read_text(encoding="utf-8")), encoding="utf-8")
    return bed
