"""What is frozen stays as the vectors have it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import tests.vectors.__main__ as command
from tests import vectors
from tests.vectors import FORMATS, contains, missing, read

VECTORS = read()
EACH = [
    pytest.param(name, vector, id=f"{name}-{number}")
    for name, content in VECTORS.items()
    for number, vector in enumerate(content["vectors"], 1)
]


@pytest.mark.parametrize(("name", "vector"), EACH)
def test_what_is_frozen_is_as_it_was(name: str, vector: Any) -> None:
    """No version changes a key, an id, a mark, a record or a name, or stops to read what an older one wrote."""
    assert FORMATS[name].holds(vector)


def test_each_format_has_all_its_vectors() -> None:
    """No vector leaves the file unnoticed: `make vectors` adds those of a new case."""
    assert list(VECTORS) == list(FORMATS)
    assert {name: missing(name, content["vectors"]) for name, content in VECTORS.items()} == {
        name: [] for name in FORMATS
    }
    assert vectors.text(VECTORS) == vectors.FILE.read_text(encoding="utf-8")
    assert {vector["given"]["version"] for vector in VECTORS["SagaState"]["vectors"]} == {1, 2}


def _change(value: Any) -> Any:
    """Return a value of another kind in the place of one that is deep inside."""
    if isinstance(value, dict) and value:
        name = max(value)
        return {**value, name: _change(value[name])}
    if isinstance(value, list) and value:
        return [*value[:-1], _change(value[-1])]
    return "something else"


@pytest.mark.parametrize("name", FORMATS)
def test_a_change_is_seen_and_never_written(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that adds vectors refuses while one does not hold, so that none is changed by it."""
    vector = VECTORS[name]["vectors"][-1]
    changed = {**vector, "expected": _change(vector["expected"])}
    assert not FORMATS[name].holds(changed)
    monkeypatch.setattr(vectors, "FILE", tmp_path / "vectors.json")
    monkeypatch.setattr(command, "FILE", tmp_path / "vectors.json")
    written = vectors.text({name: {"about": "", "vectors": [changed]}})
    (tmp_path / "vectors.json").write_text(written, encoding="utf-8")
    with pytest.raises(SystemExit, match="frozen"):
        command.main()
    assert (tmp_path / "vectors.json").read_text(encoding="utf-8") == written


def test_the_command_adds_what_is_missing_and_leaves_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    less = copy.deepcopy(VECTORS)
    taken = less["business_key"]["vectors"].pop()
    less["SagaState"]["vectors"].pop()
    monkeypatch.setattr(vectors, "FILE", tmp_path / "vectors.json")
    monkeypatch.setattr(command, "FILE", tmp_path / "vectors.json")
    (tmp_path / "vectors.json").write_text(vectors.text(less), encoding="utf-8")
    command.main()
    assert read() == VECTORS
    assert taken in read()["business_key"]["vectors"]
    assert "business_key: 10 vectors, 1 of them new" in capsys.readouterr().out


def test_what_is_shown_may_get_more_fields_and_lose_none() -> None:
    """A report may say more some day. What dashboards and tools read today stays."""
    (shown,) = (x["expected"] for x in VECTORS["what a run shows"]["vectors"] if x["given"] == "query saga_report")
    (saga,) = shown
    step, *others = saga["steps"]
    less = {name: value for name, value in step.items() if name != "key"}
    assert contains([{**saga, "more": 1, "steps": [{**step, "more": 1}, *others]}], shown)
    assert not contains([{**saga, "steps": [less, *others]}], shown)
    assert not contains([{**saga, "steps": [{**step, "state": "DONE"}, *others]}], shown)
    assert not contains([{**saga, "steps": others}], shown)
    assert not contains([], shown)
