"""Prints how sagas written by hand fare: plans that end badly with an effect standing, of the plans that ran.

Each idiom is explored on a money transfer and on an order, with providers that are idempotent and with fenced ones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from bench.idioms.record import IDIOMS, Count, count
from bench.idioms.table import COLUMNS, Cell, heading, markdown, plain, rows, write

DEPTHS = (1, 2)
PAGES = [Path(__file__).parents[2] / name for name in ("README.md", "docs/by-hand.md")]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.idioms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, metavar="N", help="up to N faults at once (default: a table for 1, and 2)")
    parser.add_argument(
        "--only", action="append", choices=IDIOMS, metavar="NAME", help=f"an idiom, of {', '.join(IDIOMS)}; repeatable"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--plans", action="store_true", help="also list the plans that a cell counts")
    parser.add_argument("--write", action="store_true", help="also write the tables into README.md and docs/by-hand.md")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N", help="default: one for each core")
    chosen = parser.parse_args(arguments)
    if chosen.depth is not None and chosen.depth < 1:
        parser.error("--depth has to be 1 or more")
    if chosen.write and chosen.only:
        parser.error("--write needs the whole table: leave out --only")
    names: list[str] = [name for name in IDIOMS if name in (chosen.only or IDIOMS)]
    tables: dict[int, str] = {}
    # Spawned: a forked process would share the SDK's threads.
    with ProcessPoolExecutor(chosen.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for depth in DEPTHS if chosen.depth is None else (chosen.depth,):
            counts = _explore(pool, names, depth)
            table = rows(counts, names, depth)
            tables[depth] = markdown(table)
            shown = tables[depth] if chosen.markdown else plain(table)
            print("\n" if len(tables) > 1 else "", shown, sep="", flush=True)
            if chosen.plans:
                _list_plans(counts, names)
    if not chosen.markdown:
        print("\nEach cell: plans that end badly with an effect standing, of the plans that ran.")
    if chosen.write:
        for page in PAGES:
            write(page, tables)


def _explore(pool: Executor, names: list[str], depth: int) -> dict[Cell, Count]:
    began = time.perf_counter()
    cells: dict[Any, Cell] = {
        pool.submit(count, name, story, provider, depth): (name, story, provider)
        for name in names
        for story, provider in COLUMNS
    }
    counts: dict[Cell, Count] = {}
    for done in as_completed(cells):
        cell = cells[done]
        counts[cell] = done.result()
        plans = sum(each.plans for each in counts.values())
        spent = time.perf_counter() - began
        _progress(f"{heading(depth)}: {len(counts)} of {len(cells)} explorations, {plans:,} plans, {spent:.0f} s")
    _progress("")
    return counts


def _list_plans(counts: dict[Cell, Count], names: list[str]) -> None:
    for name in names:
        for story, provider in COLUMNS:
            if standing := counts[name, story, provider].standing:
                print(f"\n{name}, {story}, {provider}:", *standing, sep="\n  ")


def _progress(line: str) -> None:
    """Show a line in place of the one before; where that cannot be, one below the other."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
