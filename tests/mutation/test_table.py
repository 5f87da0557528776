"""The table of survivors is well formed; that it tells the truth is for `make survivors`, which takes long."""

from __future__ import annotations

from pathlib import Path

import pytest

import temporal_saga
from tests.mutation import MODULES, TABLE, Mutant, module_of, read_diff, read_table

PACKAGE = Path(temporal_saga.__file__).parent
ENTRY = "# Why.\n_identity.business_key\n-     a\n+     b\n"


def test_each_entry_names_what_is_there_and_has_a_reason() -> None:
    found = read_table(TABLE.read_text(encoding="utf-8"))
    assert found
    sources = {name: (PACKAGE / file).read_text(encoding="utf-8") for name, file in MODULES.items()}
    for mutant, reason in found.items():
        module = module_of(mutant.function)
        assert f"def {mutant.function.rpartition('.')[2]}(" in sources[module], mutant
        assert reason.endswith("."), mutant
        source = " ".join(sources[module].split())
        assert " ".join(mutant.was.split()) in source, f"the source has another line by now: {mutant}"


def test_an_entry_is_read() -> None:
    mutant = Mutant("_identity.business_key", "a", "b")
    assert read_table(ENTRY) == {mutant: "Why."}
    two = read_table(f"# Why,\n# in two lines.\n{ENTRY.partition(chr(10))[2]}_outcome.bug_in\n-     c\n+     d\n")
    assert two == {mutant: "Why, in two lines.", Mutant("_outcome.bug_in", "c", "d"): "Why, in two lines."}


@pytest.mark.parametrize(
    "entry",
    [
        ENTRY.replace("# Why.\n", ""),
        ENTRY.replace("_identity", "_saga"),
        ENTRY.replace("b\n", "a\n"),
        ENTRY.replace("_identity.business_key\n", ""),
        ENTRY + ENTRY.partition("\n")[2],
    ],
)
def test_an_entry_that_says_nothing_is_refused(entry: str) -> None:
    with pytest.raises(AssertionError):
        read_table(entry)


def test_a_diff_is_read() -> None:
    lines = ["# x: survived", "--- a.py", "+++ a.py", "@@ -1 +1 @@", " def f():", "-    a(", "-        1)", "+    b()"]
    assert read_diff("fence.f", lines) == Mutant("fence.f", "a( 1)", "b()")
