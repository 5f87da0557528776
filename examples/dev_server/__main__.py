"""``python -m examples.dev_server``: where the Temporal CLI is, or a server until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from . import DevServerError, dev_server, find_cli, free_port


async def _run(port: int | None, ui_port: int) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with dev_server(port=port, ui_port=ui_port) as env:
        address = env.client.service_client.config.target_host
        print(f"Temporal server at {address}, Web UI at http://127.0.0.1:{ui_port}; Ctrl-C ends it")
        print(f"In another terminal: export TEMPORAL_ADDRESS={address}", flush=True)
        await stop.wait()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.dev_server",
        description="Print the path of the Temporal CLI, downloaded if there is none.",
        epilog="Looks at TEMPORAL_CLI, beside the interpreter, at the PATH and at the cache before it downloads one.",
    )
    parser.add_argument("--run", action="store_true", help="run a server until Ctrl-C")
    parser.add_argument("--port", type=int, help="the server's port (default: 7233, if free)")
    parser.add_argument("--ui-port", type=int, help="the Web UI's port (default: 8233, if free)")
    options = parser.parse_args()
    try:
        if options.run:
            port = options.port or free_port(7233)
            asyncio.run(_run(port, options.ui_port or free_port(8233)))
        else:
            print(find_cli())
    except DevServerError as err:
        sys.exit(str(err))


if __name__ == "__main__":
    main()
