"""`python -m tests.fuzz`: random programs for so many minutes, or one seed, or the known programs."""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import itertools
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Iterator

from . import known, without_sagas
from .harness import play
from .oracle import judge, kind_of_objection
from .program import Generator, Program, show, shrink


def objections_to(program: Program) -> list[str]:
    """What the oracle objects to; an error of the fuzzer's own is an objection too."""
    try:
        return judge(play(program))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return [f"fuzzer: {type(error).__name__}: {error} ({where.filename.rpartition('/')[2]}:{where.lineno})"]


def kinds_of(program: Program) -> set[str]:
    """The kinds of the objections."""
    return {kind_of_objection(text) for text in objections_to(program)}


def try_seed(seed: int, plugin: bool | None) -> list[str]:
    """Run the program of one seed."""
    _quiet()
    return objections_to(Generator(seed, plugin=plugin).program())


def report(program: Program, *, shrinks: bool, story: bool = True) -> str:
    """What is wrong with a program, as short as it can be told."""
    first = kind_of_objection(objections_to(program)[0])
    if shrinks:
        program = shrink(program, lambda candidate: first in kinds_of(candidate))
    lines = [show(program), *(f"  objection: {text}" for text in objections_to(program))]
    if story:
        lines += play(program).story
    return "\n".join(lines)


def _quiet() -> None:
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of tasks that an eviction ended before they began


def _found(seeds: Iterator[int], options: argparse.Namespace) -> Iterator[tuple[int, list[str]]]:
    end = time.monotonic() + options.minutes * 60
    if options.processes == 1:
        for seed in seeds:
            if time.monotonic() > end:
                return
            yield seed, try_seed(seed, options.plugin)
    with concurrent.futures.ProcessPoolExecutor(options.processes) as pool:
        while time.monotonic() < end:
            batch = list(itertools.islice(seeds, 200))
            yield from zip(
                batch, pool.map(try_seed, batch, itertools.repeat(options.plugin), chunksize=20), strict=True
            )


def _known(name: str | None) -> int:
    failures = 0
    for each, program in known.PROGRAMS.items():
        if name is None or name in each:
            found = objections_to(program)
            failures += bool(found)
            print(f"{'objects' if found else 'holds':8} {each}", *(f"\n    {text}" for text in found), sep="")
            if name is not None:
                print("\n".join(play(program).story))
    return failures


def main() -> int:
    """Run the fuzzer; return how many programs were objected to."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (1)")
    parser.add_argument("--seed", type=int, help="this program only, with its story")
    parser.add_argument("--start", type=int, help="the first seed; by default by the clock")
    yes_or_no = argparse.BooleanOptionalAction
    parser.add_argument("--plugin", action=yes_or_no, default=None, help="with SagaPlugin, or without; both by default")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--shrink", action=yes_or_no, default=True)
    parser.add_argument("--known", nargs="?", const="", help="the known programs (those whose name has this in it)")
    parser.add_argument("--without-sagas", action="store_true", help="the differential fuzz of SagaPlugin")
    parser.add_argument("--strict", action="store_true", help="with --without-sagas: a close that comes later differs")
    options = parser.parse_args()
    _quiet()
    if options.known is not None:
        return _known(options.known or None)
    if options.without_sagas:
        return without_sagas.main(options.minutes, options.start, strict=options.strict)
    if options.seed is not None:
        program = Generator(options.seed, plugin=options.plugin).program()
        if not objections_to(program):
            print(show(program), *play(program).story, "no objection", sep="\n")
            return 0
        print(report(program, shrinks=options.shrink))
        return 1
    start = options.start if options.start is not None else int(time.time()) * 1000
    print(f"seeds from {start}")
    kinds: collections.Counter[str] = collections.Counter()
    count = bad = 0
    for seed, found in _found(itertools.count(start), options):
        count += 1
        bad += bool(found)
        new = [text for text in found if not kinds[kind_of_objection(text)]]
        kinds.update({kind_of_objection(text) for text in found})
        if new:
            print(f"\nseed {seed}: {new[0]}")
            if options.shrink:
                print(report(Generator(seed, plugin=options.plugin).program(), shrinks=True))
            sys.stdout.flush()
        elif found:
            print(f"seed {seed}: {found[0]}", flush=True)
    print(f"\n{count} programs, {bad} objected to")
    for kind, times in kinds.most_common():
        print(f"{times:6} {kind}")
    return bad


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
