"""Prints what the library costs, as ratios within one run: `python -m bench`, or only some parts of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from bench import classify, explore, fence, saga, sandbox, simulate

PARTS: dict[str, Callable[[float], None]] = {
    "saga": saga.report,
    "sandbox": sandbox.report,
    "fence": fence.report,
    "classify": classify.report,
    "simulate": simulate.report,
    "explore": explore.report,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a line takes (default: 2)")
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}: {', '.join(PARTS)}")
    for number, part in enumerate(arguments.parts or PARTS):
        print("\n" if number else "", end="")
        PARTS[part](arguments.seconds)


if __name__ == "__main__":
    main()
