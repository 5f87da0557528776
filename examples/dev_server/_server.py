"""Run a Temporal dev server, or attach to one."""

from __future__ import annotations

import asyncio
import inspect
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client, Plugin
from temporalio.converter import DataConverter
from temporalio.envconfig import ClientConfig
from temporalio.testing import WorkflowEnvironment

from ._cli import DevServerError, find_cli

# The key's name differs between server 1.32 and the next; a server ignores one it does not know.
_TIME_SKIPPING = (
    "--dynamic-config-value",
    "frontend.WorkflowTimeSkippingEnabled=true",
    "--dynamic-config-value",
    "system.workflowTimeSkippingEnabled=true",
    # By default the server looks at its timers once a second, so that each skip takes one.
    "--dynamic-config-value",
    'history.timerProcessorMaxTimeShift="1ms"',
)
# At its default of 200 skips a server turns skipping off without a word: too few for a
# compensation that is retried for days.
_MANY_SKIPS = 100_000


@asynccontextmanager
async def dev_server(
    *,
    time_skipping: bool = False,
    ui_port: int | None = None,
    port: int | None = None,
    database: Path | None = None,
    plugins: Sequence[Plugin] = (),
    data_converter: DataConverter = DataConverter.default,
    extra_args: Sequence[str] = (),
) -> AsyncGenerator[WorkflowEnvironment]:
    """Give a Temporal server for the length of an ``async with``.

    ``TEMPORAL_ADDRESS`` attaches to a server that is running, with the connection settings that
    the SDK reads from the environment; it is left running. Without it, or where something is asked
    that only a server of our own is sure to have (``time_skipping``, ``port``, ``database``,
    ``extra_args``), one is started from the CLI that ``find_cli`` finds.

    Args:
        time_skipping: Give each workflow a clock of its own, which skips what it waits for.
        ui_port: The port for a Web UI; None for no Web UI.
        port: The port to listen on; None for any that is free.
        database: The file to keep the server's data in; None for memory.
        plugins: Plugins for the client.
        data_converter: The data converter for the client.
        extra_args: More arguments for ``temporal server start-dev``.

    Yields:
        The environment; its ``client`` is connected to the namespace ``default``, or, attached, to
        the one that the environment names.

    Raises:
        DevServerError: There is no server, or none that can do what is asked.
    """
    only_ours = time_skipping or port is not None or database is not None or bool(extra_args)
    if os.environ.get("TEMPORAL_ADDRESS") and not only_ours:
        client = await Client.connect(
            **ClientConfig.load_client_connect_config(), plugins=plugins, data_converter=data_converter
        )
        yield WorkflowEnvironment.from_client(client)
        return

    cli = await asyncio.to_thread(find_cli)
    options: dict[str, Any] = {
        "port": port,
        "ui": ui_port is not None,
        "ui_port": ui_port,
        "plugins": plugins,
        "data_converter": data_converter,
        "dev_server_database_filename": None if database is None else str(database),
        "dev_server_log_level": "error",
        "dev_server_extra_args": [*(_TIME_SKIPPING if time_skipping else ()), *extra_args],
    }
    # A busy machine needs more than the default of 5 s; temporalio 1.34 has no such option.
    known = inspect.signature(WorkflowEnvironment.start_local).parameters
    if "dev_server_startup_timeout" in known:
        options["dev_server_startup_timeout"] = timedelta(seconds=30)

    with tempfile.TemporaryDirectory(prefix="temporal-dev-server-") as home:
        options["dev_server_existing_path"] = str(_in_clean_environment(cli, Path(home)))
        env = await _start(time_skipping, options)
        try:
            if time_skipping:
                await _check_time_skipping(env.client, cli)
            yield env
        finally:
            await env.shutdown()
            # The SDK's threads outlive the call. Where the interpreter ends at once, about one in
            # four crashes (github.com/temporalio/sdk-python/issues/300); none after this wait.
            await asyncio.sleep(0.3)


def free_port(preferred: int = 0) -> int:
    """A port that nothing listens on: the preferred one, if it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _start(time_skipping: bool, options: dict[str, Any]) -> WorkflowEnvironment:
    if not time_skipping:
        return await WorkflowEnvironment.start_local(**options)
    # Imported here because temporalio 1.34, which all the rest supports, does not have it.
    from temporalio.testing import TimeSkippingConfig

    return await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(max_session_skip_count=_MANY_SKIPS), **options
    )


def _in_clean_environment(cli: Path, home: Path) -> Path:
    """A script that runs the CLI with an empty environment but for a HOME of its own.

    The SDK hands its whole environment on to the CLI, which would read the user's ``TEMPORAL_*``
    and write to the user's HOME. ``exec``, because the SDK kills its direct child and no other.
    """
    if sys.platform == "win32":
        return cli
    script = home / "temporal"
    command = f"env -i HOME={shlex.quote(str(home))} {shlex.quote(str(cli))}"
    # Errors go to stderr; what goes to stdout is a banner for people.
    script.write_text(f'#!/bin/sh\nexec {command} "$@" >/dev/null\n')
    script.chmod(0o755)
    return script


async def _check_time_skipping(client: Client, cli: Path) -> None:
    """Refuse a server that would drop the request without a word, and let a test wait for days."""
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    major, minor, *_ = (int(part) for part in info.server_version.split("-")[0].split("."))
    if (major, minor) < (1, 32):
        raise DevServerError(f"{cli} runs server {info.server_version}; skipping time needs 1.32 (CLI 1.9)")
