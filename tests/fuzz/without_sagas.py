"""Programs without a saga do the same with and without `SagaPlugin`: the same commands, the same results."""

from __future__ import annotations

import itertools
import re
import time

from .harness import World, play
from .program import Generator, Program, show, shrink

_CLOSES = re.compile(r"\('(complete|fail|cancel|continue_as_new)'")


def difference(program: Program, *, strict: bool = False) -> str | None:
    """What the plugin changes in a program, if anything.

    Args:
        program: Without sagas.
        strict: Also tell when a run closes some turns of the loop later, in the same activation: then other tasks may
            give another command before the one that closes.
    """
    without, with_plugin = (_told(play({**program, "plugin": plugin})) for plugin in (False, True))
    for number, (by_hand, changed) in enumerate(itertools.zip_longest(without, with_plugin, fillvalue=[])):
        if by_hand == changed:
            continue
        closes_alike = by_hand and changed and by_hand[-1] == changed[-1] and _CLOSES.match(by_hand[-1])
        if strict or not closes_alike or changed[: len(by_hand) - 1] != by_hand[:-1]:
            return f"activation {number}: without the plugin {by_hand}, with it {changed}"
    return None


def _told(world: World) -> list[list[str]]:
    """The commands of each activation, up to the one that closes the run; then what went wrong."""
    told = []
    for commands in world.commands:
        # An error is told by its name and text: two that are alike are not equal. A program tells its plugin.
        texts = [re.sub(r"'plugin': \w+, ", "", repr(command)) for command in commands]
        closes = next((index for index, text in enumerate(texts) if _CLOSES.match(text)), len(texts))
        told.append(texts[: closes + 1])
    return told + [[text] for text in world.objections if text.startswith(("task failed", "driver", "replay", "evict"))]


def main(minutes: float, start: int | None, *, strict: bool = False) -> int:
    """Compare random programs for so many minutes; return how many differed."""
    end = time.monotonic() + minutes * 60
    first = start if start is not None else int(time.time()) * 1000
    print(f"seeds from {first}")
    bad = count = 0
    for seed in itertools.count(first):
        if time.monotonic() > end:
            break
        program = Generator(seed, sagas=False).program()
        count += 1
        if found := difference(program, strict=strict):
            bad += 1
            print(f"seed {seed}: {found}", flush=True)
            if bad == 1:
                print(show(shrink(program, lambda candidate: difference(candidate, strict=strict) is not None)))
    print(f"{count} programs, {bad} differed")
    return bad
