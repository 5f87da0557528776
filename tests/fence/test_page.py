"""What docs/fence.md says, of the code in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from temporal_saga.errors import Fenced
from tests.fence.support import environment, new_key
from tests.test_docs import load


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    found = load("fence")
    monkeypatch.setattr(found, "FILE", str(tmp_path / "bank.db"))
    found.create_tables()
    yield found
    found.engine.dispose()


def balance(page: Any) -> int:
    with closing(page.connect()) as connection:
        return int(connection.execute("SELECT balance FROM account").fetchone()[0])


def runner(page: Any) -> Callable[..., Any]:
    return lambda phase, key, name: environment(phase, key).run(getattr(page, name), page.Payment("ada", 10))


@pytest.mark.parametrize("step", ["withdraw", "withdraw_in_a_session"])
def test_the_picture(page: Any, step: str) -> None:
    run, key, late = runner(page), new_key(), new_key()
    assert [run("do", key, step), run("do", key, step)] == [90, 90]
    run("undo", key, "return_withdrawal")
    run("undo", key, "return_withdrawal")
    run("undo", late, "return_withdrawal")
    run("undo", late, "return_withdrawal")
    with pytest.raises(Fenced):
        run("do", late, step)
    assert balance(page) == 100


def test_when_the_step_has_no_record(page: Any) -> None:
    run, key = runner(page), new_key()
    run("undo", key, "return_what_a_provider_took")
    run("undo", key, "return_what_a_provider_took")
    assert balance(page) == 110


def test_an_effect_under_a_key(page: Any) -> None:
    for phase, key in (("do", new_key()), ("undo", new_key())):
        assert runner(page)(phase, key, "credit_bonus") == 110
    assert balance(page) == 110


def test_where_the_table_is(page: Any) -> None:
    with closing(page.connect()) as connection, connection:
        run = environment("do", new_key()).run
        assert run(page.withdraw_from, connection, "main", page.Payment("ada", 10)) == 90


def test_the_purge(page: Any) -> None:
    run = runner(page)
    run("do", new_key(), "withdraw")
    assert page.purge() == 0
    with closing(page.connect()) as connection, connection:
        connection.execute("UPDATE temporal_saga_fence SET updated_at = '2020-01-01'")
    assert page.purge() == 1
