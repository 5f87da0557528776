"""Print the mutants that survive the tests, each with its reason; fail if one has none.

All of them, or some by mutmut's names: `python -m tests.mutation "temporal_saga.fence.*"`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import temporal_saga
from tests.mutation import HERE, TABLE, Mutant, read_diff, read_table
from tests.postgres import server

ROOT = HERE.resolve().parent.parent
BED = ROOT / "build" / "mutation"
CAUGHT = {"killed", "timeout", "segfault"}
SURVIVED = {"survived", "no tests"}


def main(names: list[str]) -> int:
    if sys.version_info < (3, 12):
        sys.exit("sqlite3's autocommit= is new in Python 3.12: without it the fence's mutants that break it survive")
    make_bed()
    with server() as url:
        mutmut("run", *names, DATABASE_URL=url)
    every = read_results(mutmut("results", "--all", "true", quiet=True))
    # Of some only: the others have not been run.
    statuses = {name: status for name, status in every.items() if not names or status != "not checked"}
    print("\n" + ", ".join(f"{count} {status}" for status, count in Counter(statuses.values()).most_common()) + "\n")
    undecided = [name for name, status in statuses.items() if status not in CAUGHT | SURVIVED]
    if undecided:
        print("neither caught nor survived:", *undecided, sep="\n")
    survivors = [show(name) for name, status in statuses.items() if status in SURVIVED]
    reasons = read_table(TABLE.read_text(encoding="utf-8"))
    new = [mutant for mutant in survivors if mutant not in reasons]
    for mutant in survivors:
        print(f"# {reasons.get(mutant, 'NO REASON')}\n{mutant}\n")
    functions = {function_of(name) for name in statuses} - {
        function_of(name) for name in every.keys() - statuses.keys()
    }
    dead = [mutant for mutant in reasons if mutant.function in functions and mutant not in survivors]
    for mutant in dead:
        print(f"listed, but it does not survive:\n{mutant}\n")
    print(f"{len(survivors)} survivors of {len(statuses)}, {len(new)} without a reason, {len(dead)} listed in vain")
    # One that is listed may die of a slow machine: of a test's time limit.
    return 1 if new or undecided else 0


def make_bed() -> None:
    """Copy the package under test, which may be the installed one, to where mutmut finds it as it likes to."""
    shutil.rmtree(BED, ignore_errors=True)
    package = Path(temporal_saga.__file__).parent
    shutil.copytree(package, BED / "temporal_saga", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "examples", "bench", "docs", "README.md", "pyproject.toml"):
        (BED / name).symlink_to(ROOT / name)


def mutmut(*arguments: str, quiet: bool = False, **variables: str) -> str:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("TEMPORAL_SAGA_INSTALLED", "PYTHONPATH")
    }
    process = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=BED,
        env={**environment, **variables},
        stdout=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        sys.exit(f"mutmut {arguments[0]} failed")
    return process.stdout or ""


def read_results(output: str) -> dict[str, str]:
    return dict(line.strip().rsplit(": ", 1) for line in output.splitlines() if ": " in line)


def show(name: str) -> Mutant:
    return read_diff(function_of(name), mutmut("show", name, quiet=True).splitlines())


def function_of(name: str) -> str:
    """Return a mutant's function: `_identity.Keys.of_step` for `temporal_saga._identity.xǁKeysǁof_step__mutmut_1`."""
    module, _, mangled = name.removeprefix("temporal_saga.").rpartition("__mutmut_")[0].rpartition(".")
    return f"{module}." + (".".join(mangled.split("ǁ")[1:]) if "ǁ" in mangled else mangled.removeprefix("x_"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
