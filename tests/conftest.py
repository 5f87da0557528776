"""What all tests share: the servers, started when the first test asks for one, and a header."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import temporalio.service
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

import temporal_saga
from examples.dev_server import dev_server, find_cli
from temporal_saga.plugin import SagaPlugin
from tests.postgres import postgres as postgres  # a fixture of all tests

# The same examples each time, however slow the machine is: a change is judged by what it changes. `tests.fuzz` searches
# anew.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

_TESTS = Path(__file__).parent
_SERVER_TESTS = _TESTS / "server"
# Files of few and long tests come first: else the last one of them keeps one process busy, and the others wait.
_LONG = {"kit", "storm", "test_mutants.py", "testing"}
_SERVER_FIXTURES = {"env", "time_skipping_env"}


def pytest_report_header() -> str:
    where = Path(temporal_saga.__file__).parent
    version = ".".join(str(part) for part in sys.version_info[:3])
    return f"python {version}, temporalio {temporalio.service.__version__}, temporal_saga: {where}"


def pytest_sessionstart() -> None:
    if os.environ.get("TEMPORAL_SAGA_INSTALLED") == "1":
        where = Path(temporal_saga.__file__).parent
        if where.parent.name != "site-packages" or not where.is_relative_to(sys.prefix):
            pytest.exit(f"temporal_saga is {where}, not the installed wheel", returncode=3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = _places([*dict.fromkeys(item.path for item in items)])
    items.sort(key=lambda item: places[item.path])
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if _SERVER_TESTS in item.path.parents or fixtures & _SERVER_FIXTURES:
            item.add_marker("server")
        if "time_skipping_env" in fixtures:
            item.add_marker("time_skipping")
        if item.get_closest_marker("time_skipping"):
            item.add_marker(pytest.mark.needs_server("1.32"))


def _places(files: list[Path]) -> dict[Path, float]:
    """Spread the files whose tests wait for a server over those that compute, so that both go on all the time."""
    wait = [file for file in files if _SERVER_TESTS in file.parents]
    compute = [file for file in files if file not in wait]
    compute.sort(key=lambda file: file.relative_to(_TESTS).parts[0] not in _LONG)
    places = {file: number / len(compute) for number, file in enumerate(compute)}
    # They end a little earlier, for the same reason as the long ones.
    return places | {file: 0.7 * number / len(wait) for number, file in enumerate(wait)}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Get the CLI before the first test: a download may take longer than a test may."""
    # A collection then passes over all that has been imported: else it takes 0.1 s, in each of thousands of tests.
    gc.collect()
    gc.freeze()
    if any(item.get_closest_marker("server") for item in session.items):
        os.environ["TEMPORAL_CLI"] = str(find_cli())


@pytest.fixture(scope="module", autouse=True)
def _only_its_own_garbage() -> None:
    """Let the collections of a file pass over what the files before it have made: that is some hundred megabytes."""
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what the server cannot do: `make test-server` runs on older ones, too."""
    for needed in item.iter_markers("needs_server"):
        if _numbers(server_version(os.environ["TEMPORAL_CLI"])) < _numbers(needed.args[0]):
            pytest.skip(f"needs server {needed.args[0]}")


@cache
def server_version(cli: str) -> str:
    """Return the version of the server that a CLI has."""
    said = subprocess.run([cli, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\(Server ([\d.]+)", said)
    assert found, said
    return found[1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


@pytest.fixture(scope="session")
async def env() -> AsyncIterator[WorkflowEnvironment]:
    """A real server; its client is a plain one, without our plugin."""
    # From its start: a server may forget one of the attributes that are added later, and then refuses schedules.
    known = ["--search-attribute", "SagaState=Keyword", "--search-attribute", "OrderStatus=Keyword"]
    async with dev_server(extra_args=[] if os.environ.get("TEMPORAL_ADDRESS") else known) as env:
        yield env


@pytest.fixture(scope="session")
def client(env: WorkflowEnvironment) -> Client:
    """A client of the real server with ``SagaPlugin``, which its workers take over."""
    config = env.client.config()
    config["plugins"] = [SagaPlugin()]
    return Client(**config)


@pytest.fixture(scope="session")
async def time_skipping_env() -> AsyncIterator[WorkflowEnvironment]:
    """A real server on virtual time; its client has ``SagaPlugin``."""
    async with dev_server(time_skipping=True, plugins=[SagaPlugin()]) as env:
        yield env
