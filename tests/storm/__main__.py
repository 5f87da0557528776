"""The command line: see the package."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from .gaps import SCENARIOS, try_gaps
from .storm import Options, storm

BROKEN = [
    Options(30, mutant="attempt_in_the_key"),
    Options(160, mutant="armed_after_the_step"),
    Options(240, mutant="failed_undo_unreported"),
    Options(30, mutant="fence_undo_twice"),
    Options(30, mutant="random_keys"),
    Options(30, keys=False),
    Options(60, by_hand=True),
]
"""What a storm must catch: broken copies of the library, a bank that knows no keys, and the hand-written idiom."""


def sees(seed: str) -> int:
    """Make a storm over each of what is broken; return how many were not caught."""
    missed = 0
    for options in BROKEN:
        figures = storm(replace(options, seed=seed, database="sqlite"))
        what = options.mutant or ("by hand" if options.by_hand else "without keys")
        # Not by the replays: they run the library as it is, on what a broken copy has written.
        caught = figures.lost or figures.doubled or figures.stuck
        missed += not caught
        print(f"{what}: {'caught' if caught else 'MISSED'}: {figures}", flush=True)
    return missed


async def gaps(scenarios: list[str], choose: slice) -> int:
    wrong: list[str] = []
    for scenario in scenarios:
        with tempfile.TemporaryDirectory(prefix="temporal-saga-gaps-") as directory:
            found = await try_gaps(Path(directory), scenario, lambda gaps: gaps[choose], partial(print, flush=True))
        wrong += found
        print(*found, f"{scenario}: {len(found)} gaps that change the outcome, or do not replay", sep="\n", flush=True)
    return len(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.storm", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--transfers", type=int, default=200, help="how many transfers; an order for each four")
    parser.add_argument("--seed", default="1", help="of the plan of faults, kills, cancels and decisions")
    parser.add_argument("--minutes", type=float, help="start nothing after so long")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql", help="of the transfers")
    parser.add_argument("--by-hand", action="store_true", help="the hand-written idiom in place of a saga")
    parser.add_argument("--without-keys", action="store_true", help="a bank that knows no keys: must be caught")
    parser.add_argument("--parking", action="store_true", help="only transfers that wait for the operator")
    parser.add_argument("--mutant", help="a broken copy of the library, by its name in tests/mutants: must be caught")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("sees", help="make storms over what is broken, each of which must be caught")
    command = commands.add_parser("gaps", help="a kill between any two events of the life of what is parked")
    command.add_argument("--scenario", choices=list(SCENARIOS), action="append", help="what is parked; both without it")
    command.add_argument("--from", dest="start", type=int, default=0, help="the number of the first gap")
    command.add_argument("--to", dest="stop", type=int, help="the number after the last gap")
    command.add_argument("--step", type=int, help="try each nth gap")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes of the storm end with it
    if given.command == "gaps":
        sys.exit(bool(asyncio.run(gaps(given.scenario or list(SCENARIOS), slice(given.start, given.stop, given.step)))))
    if given.command == "sees":
        sys.exit(sees(given.seed))
    options = Options(
        given.transfers,
        given.seed,
        given.minutes,
        by_hand=given.by_hand,
        keys=not given.without_keys,
        mutant=given.mutant,
        database=given.database,
        parking=given.parking,
    )
    sys.exit(bool(storm(options, partial(print, flush=True)).wrong))


if __name__ == "__main__":
    main()
