"""The demo: run as a reader would, and whether it would notice if it were not true."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import pytest
from temporalio.testing import WorkflowEnvironment

import examples
from examples.demo.__main__ import tell, workspace
from examples.demo.stage import MoneySide, Stage
from examples.demo.stories import STORIES
from examples.demo.terminal import Terminal
from examples.demo.textbook import TextbookTransfer
from examples.demo.verdict import Books, Row, Verdicts

MONEY = "intact - 1,050.00 EUR of 1,050.00 EUR"
ORDER = "intact - 500.00 EUR of 500.00 EUR"
VERDICTS = [
    (MONEY, MONEY),
    (MONEY, MONEY),
    (MONEY, "100.00 EUR lost - 950.00 EUR of 1,050.00 EUR"),
    (MONEY, MONEY),
    (ORDER, "24.90 EUR lost - 475.10 EUR of 500.00 EUR"),
    (MONEY, "100.00 EUR lost - 950.00 EUR of 1,050.00 EUR"),
    (ORDER, "24.90 EUR too much - 524.90 EUR of 500.00 EUR"),
]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_the_demo_tells_its_seven_stories(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("TEMPORAL_ADDRESS", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "examples.demo",
        cwd=Path(examples.__file__).parents[1],
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, errors = (stream.decode() for stream in await process.communicate())
    assert process.returncode == 0, printed + errors
    assert not errors
    assert list(tmp_path.iterdir()) == [], "it deletes what it wrote"
    assert re.search(r"`make demo KEEP=1` leaves it running, with its Web UI at\s+http://127\.0\.0\.1:\d+\.", printed)
    found = re.findall(r"^ +ours: +(.+)\n +textbook: +(.+)$", printed, re.MULTILINE)
    assert found == VERDICTS
    assert re.findall(r"^(\d)   (.+)$", printed, re.MULTILINE) == [
        (str(number), story.title) for number, story in enumerate(STORIES, 1)
    ]
    assert "(exit code -9)" in printed
    assert "ours 7 of 7, the textbook's 3 of 7" in printed
    assert "\033" not in printed, "no colours where nobody sees them"
    assert max(map(len, printed.splitlines())) <= 100
    assert not re.search(r"Traceback|WARN|Error:", printed)


@pytest.mark.timeout(120)
async def test_what_is_kept_stays_until_it_is_interrupted(tmp_path: Path) -> None:
    """Promise: with --keep the Web UI answers at the address that the demo prints; Ctrl-C ends and deletes it all."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("TEMPORAL_ADDRESS", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "examples.demo", "--story", "1", "--keep"),
        cwd=Path(examples.__file__).parents[1],
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    try:
        printed = (await process.stdout.readuntil(b"until Ctrl-C")).decode()
        ui, log = re.findall(r"Web UI +(http://\S+)\n.*log\s+(\S+),", printed, re.DOTALL)[0]
        assert await asyncio.to_thread(lambda: urlopen(ui).status) == 200
        assert Path(log).exists()
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", [False, True])
def test_the_log_stays_where_something_went_wrong(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Promise: the demo deletes what it wrote, except for the log of a demo that failed, which it names."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    verdicts = Verdicts()
    with workspace(verdicts) as folder:
        log = folder / "log.txt"
        log.touch()
        if broken:
            verdicts.broken(1, TimeoutError("not within 60 s"))
    assert log.exists() is broken
    assert (str(log) in capsys.readouterr().err) is broken


async def test_a_saga_that_loses_money_is_found_out(
    env: WorkflowEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_both = {"saga": TextbookTransfer, "textbook": TextbookTransfer}
    monkeypatch.setattr(MoneySide, "workflows", for_both)
    verdicts, terminal = Verdicts(), Terminal(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with ThreadPoolExecutor() as threads:
        stage = Stage(env.client, tmp_path, uuid4().hex, threads)
        async with stage.open:
            await tell(3, stage, terminal, verdicts)
    assert verdicts.objections == ["Story 3: ours is wrong, 100.00 EUR lost - 950.00 EUR of 1,050.00 EUR"]
    assert verdicts.exit_code == 1


def books(alice: int, bob: int, *, transit: int = 0) -> Books:
    """Those of a transfer of 100 that was to be undone."""
    rows = [Row("alice", alice, 1000), Row("bob", bob, 50)]
    return Books([*rows, Row("in transit", transit, 0, owned=False)], "customers own", "failed")


RIGHT = books(1000, 50)
LOST = books(900, 50, transit=100)


@pytest.mark.parametrize(
    ("saga", "textbook", "hazard", "objection"),
    [
        (RIGHT, RIGHT, False, None),
        (RIGHT, LOST, True, None),
        (LOST, LOST, True, "Story 1: ours is wrong, 1.00 EUR lost - 9.50 EUR of 10.50 EUR"),
        (LOST, RIGHT, False, "Story 1: ours is wrong, 1.00 EUR lost - 9.50 EUR of 10.50 EUR"),
        (books(900, 150), LOST, True, "Story 1: ours is wrong, in the wrong place - 10.50 EUR of 10.50 EUR"),
        (
            books(1000, 50, transit=100),
            LOST,
            True,
            "Story 1: ours is wrong, in the wrong place - 10.50 EUR of 10.50 EUR",
        ),
        (RIGHT, RIGHT, True, "Story 1: the textbook should be wrong, and is not"),
        (RIGHT, LOST, False, "Story 1: the textbook should be right, and is not"),
    ],
)
def test_a_story_passes_only_if_it_went_as_the_demo_says(
    saga: Books, textbook: Books, hazard: bool, objection: str | None
) -> None:
    verdicts = Verdicts()
    assert verdicts.pass_on(1, saga, textbook, hazard=hazard) is (objection is None)
    assert verdicts.objections == ([objection] if objection else [])
    assert verdicts.exit_code == (1 if objection else 0)


async def test_a_story_that_breaks_off_fails_the_demo(
    env: WorkflowEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def frozen(*_: object) -> None:
        raise TimeoutError("not within 60 s: alice pays")

    monkeypatch.setattr(MoneySide, "enter", frozen)
    verdicts, terminal = Verdicts(), Terminal(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    with ThreadPoolExecutor() as threads:
        stage = Stage(env.client, tmp_path, uuid4().hex, threads)
        async with stage.open:
            await tell(1, stage, terminal, verdicts)
    assert verdicts.objections == ["Story 1 broke off: not within 60 s: alice pays"]
    assert verdicts.exit_code == 1
