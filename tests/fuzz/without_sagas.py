"""Programs without a saga do the same with and without `SagaPlugin`: the same commands, the same results."""

from __future__ import annotations

import itertools
import re
import time

from .harness import World, play
from .program import Body, Generator, Program, again, event, fail, program, raise_flag, show, shrink, wait

_CLOSES = re.compile(r"\('(complete|fail|cancel|continue_as_new)'")


def difference(program: Program, *, strict: bool = False) -> str | None:
    """What the plugin changes in a program, if anything.

    Args:
        program: Without sagas.
        strict: Also tell when a run closes some turns of the loop later, in the same activation: then other tasks may
            give another command before the one that closes.
    """
    without, with_plugin = (_told(play({**program, "plugin": plugin})) for plugin in (False, True))
    nothing: list[str] = []
    for number, (by_hand, changed) in enumerate(itertools.zip_longest(without, with_plugin, fillvalue=nothing)):
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


def _meet(main: Body, handler: Body) -> Program:
    """The main method and then a signal handler wake on one condition."""
    return program(
        [wait("f"), *main], events=[event(1, "signal", [wait("f"), *handler]), event(2, "signal", [raise_flag("f")])]
    )


KNOWN: dict[str, Program] = {
    "D2: the main method returns, the handler fails": _meet([], [fail()]),
    "D2: the main method returns, the handler continues as new": _meet([], [again()]),
    "D2: the main method continues as new, the handler fails": _meet([again()], [fail()]),
    "D2: the main method fails, the handler continues as new": _meet([fail()], [again()]),
}
"""Programs that the plugin once changed."""


def main(minutes: float, start: int | None, *, strict: bool = False) -> int:
    """Compare random programs for so many minutes; return how many differed."""
    end = time.monotonic() + minutes * 60
    first = start if start is not None else int(time.time()) * 1000
    print(f"seeds from {first}")
    bad = count = 0
    for seed in itertools.count(first):
        if time.monotonic() > end:
            break
        made = Generator(seed, sagas=False).program()
        count += 1
        if found := difference(made, strict=strict):
            bad += 1
            print(f"seed {seed}: {found}", flush=True)
            if bad == 1:
                print(show(shrink(made, lambda candidate: difference(candidate, strict=strict) is not None)))
    print(f"{count} programs, {bad} differed")
    return bad
