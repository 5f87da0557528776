"""`python -m tests.testing.memory`: shows that 10,000 plans of `explore` need no more memory than 1,000."""

from __future__ import annotations

import resource
import sys
import time

from temporal_saga.testing import Simulation, explore
from tests.testing.bank import Bank, ParallelTransfer


class _EnoughError(BaseException):  # an Exception of a check is an objection
    """As many runs as were asked for."""


def main(runs: int = 10_000, every: int = 1_000) -> list[float]:
    """Explore two faults, many signals among them; return the most memory in use so far, in MB, after each thousand."""
    used: list[float] = []
    count = 0
    started = time.perf_counter()
    unit = 2**20 if sys.platform == "darwin" else 2**10

    def measure(bank: Bank, simulation: Simulation[str]) -> None:
        nonlocal count
        count += 1
        if count % every == 0:
            used.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
            print(f"{count:>7} plans {used[-1]:8.1f} MB {time.perf_counter() - started:8.1f} s", flush=True)
        if count == runs:
            raise _EnoughError

    try:
        signals = [("note", number) for number in range(runs // 30)]
        explore(ParallelTransfer.run, 30, setup=Bank, check=measure, faults=2, signals=signals)
    except _EnoughError:
        pass
    return used


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
