"""What goes wrong between here and the server, and how the command starts and ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc  # type: ignore[import-untyped, unused-ignore]
import pytest
from temporalio.api.workflowservice.v1 import GetSystemInfoResponse

from tests.cli.support import run

SECRET = "planted-secret"


class _Refuses(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    """A server that tells who it is, and refuses all else, with words that nobody should repeat."""

    def __init__(self, status: grpc.StatusCode, message: str, *, from_the_start: bool = False) -> None:
        self.status = status
        self.message = message
        self.from_the_start = from_the_start

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if handler_call_details.method.endswith("/GetSystemInfo") and not self.from_the_start:
                return GetSystemInfoResponse().SerializeToString()
            context.abort(self.status, self.message)
            raise AssertionError("abort() raises")

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def refusing(status: grpc.StatusCode, message: str = SECRET, *, from_the_start: bool = False) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[_Refuses(status, message, from_the_start=from_the_start)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("status", "message", "says"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, SECRET, "denied"),
        (grpc.StatusCode.UNAUTHENTICATED, SECRET, "denied"),
        (grpc.StatusCode.NOT_FOUND, f"Namespace {SECRET} is not found", "no namespace 'default'"),
        (grpc.StatusCode.NOT_FOUND, SECRET, "is not in namespace"),
        (grpc.StatusCode.UNIMPLEMENTED, SECRET, "too old"),
        (grpc.StatusCode.FAILED_PRECONDITION, f"{SECRET} is paused", "unpause it first"),
        (grpc.StatusCode.INVALID_ARGUMENT, SECRET, "check the ids"),
        (grpc.StatusCode.ALREADY_EXISTS, SECRET, "refuses"),
    ],
)
async def test_each_refusal_is_one_line_and_repeats_nothing(status: grpc.StatusCode, message: str, says: str) -> None:
    """Nothing secret is printed: neither the credentials nor the server's own words."""
    with refusing(status, message) as address:
        for command in (
            ["show", "order"],
            ["resolve", "order", "key", "retry", "--who", "a", "--why", SECRET, "--yes"],
        ):
            said = await run(*command, "--address", address, "--api-key", SECRET, "--no-tls")
            assert (said.code, said.out) == (1, "")
            assert says in said.err
            assert said.err.count("\n") == 1
            assert SECRET not in said.err


async def test_denied_at_the_door() -> None:
    with refusing(grpc.StatusCode.PERMISSION_DENIED, from_the_start=True) as address:
        said = await run("list", "--address", address)
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert SECRET not in said.err


@pytest.mark.parametrize("text", [f"api_key = {SECRET}", f'[profile.default]\napi_key = 1\nx = "{SECRET}'])
async def test_a_broken_configuration_file_is_named_and_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "temporal.toml"
    path.write_text(text)
    said = await run("show", "order", "--config-file", str(path))
    assert said.code == 1
    assert "temporal.toml" in said.err
    assert said.err.count("\n") == 1
    assert SECRET not in said.err


async def test_settings_come_from_the_profile_and_options_win(tmp_path: Path) -> None:
    """As with the `temporal` CLI: an option, then the environment, then the file."""
    path = tmp_path / "temporal.toml"
    path.write_text('[profile.ops]\naddress = "127.0.0.1:1"\nnamespace = "payments"\n')
    said = await run("show", "order", "--config-file", str(path), "--profile", "ops")
    assert "no Temporal server answers at 127.0.0.1:1" in said.err
    with refusing(grpc.StatusCode.PERMISSION_DENIED) as address:
        said = await run("show", "order", "--config-file", str(path), "--profile", "ops", "--address", address)
    assert "in namespace 'payments'" in said.err


@pytest.mark.parametrize("command", [["show", "order"], ["list"], ["resolve", "o", "k", "retry", "--who=a", "--why=b"]])
async def test_settings_may_stand_before_the_command(command: list[str]) -> None:
    """As with the `temporal` CLI; after the command they win."""
    with refusing(grpc.StatusCode.PERMISSION_DENIED) as address:
        said = await run("--address", address, "-n", "payments", "--no-tls", *command)
        assert "in namespace 'payments'" in said.err
        said = await run("--address", "127.0.0.1:1", "-n", "payments", *command, "--address", address)
        assert "in namespace 'payments'" in said.err


# --- the command ---


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("missing", [["click"], ["rich"], ["click", "rich"]])
def test_without_the_extra_the_command_says_how_to_get_it(missing: list[str]) -> None:
    hide = "; ".join(f"sys.modules[{name!r}] = None" for name in missing)
    done = python("-c", f"import sys; {hide}; from temporal_saga.cli import main; main()")
    assert done.returncode == 1
    assert done.stderr == f"temporal-saga needs {' and '.join(missing)}: pip install 'temporal-saga[cli]'\n"
    assert done.stdout == ""


def test_the_module_is_the_command() -> None:
    """Its exit codes are: 0, 1 for a problem, 2 for a wrong call."""
    helped = python("-m", "temporal_saga", "--help")
    assert helped.returncode == 0
    assert all(command in helped.stdout for command in ("show", "list", "resolve"))
    assert python("-m", "temporal_saga", "show").returncode == 2
    failed = python("-m", "temporal_saga", "show", "order", "--address", "127.0.0.1:1")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "Error: no Temporal server answers at 127.0.0.1:1: check the address and TLS\n"


def test_a_fault_of_our_own_is_one_line_without_its_message() -> None:
    code = "import temporal_saga.cli._commands as c; c.fetch = lambda *a, **k: 1 / 0; c.Connection.connect = None"
    done = python("-c", f"import sys; sys.argv = ['x', 'show', 'order']; {code}; c.main()")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: a fault in temporal-saga: TypeError at _fetch, line ")
