"""The command line: see the package."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from functools import partial
from pathlib import Path

from .gaps import SCENARIOS, try_gaps


async def gaps(choose: slice) -> int:
    wrong: list[str] = []
    for scenario in SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="temporal-saga-gaps-") as directory:
            wrong += await try_gaps(Path(directory), scenario, choose, partial(print, flush=True))
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"gaps: {len(wrong)} that change the outcome")
    return len(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.storm")
    commands = parser.add_subparsers(dest="command")
    command = commands.add_parser("gaps", help="a kill between any two events of the life of what is parked")
    command.add_argument("--from", dest="start", type=int, default=0, help="the number of the first gap")
    command.add_argument("--to", dest="stop", type=int, help="the number after the last gap")
    command.add_argument("--step", type=int, help="try each nth gap")
    arguments = parser.parse_args()
    if arguments.command == "gaps":
        sys.exit(bool(asyncio.run(gaps(slice(arguments.start, arguments.stop, arguments.step)))))


if __name__ == "__main__":
    main()
