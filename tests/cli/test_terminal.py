"""What the command meets at its two ends: terminals and pipes of any kind, and names that come from anyone."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

import temporal_saga.cli._commands as commands
from temporal_saga.cli._history import Now, read
from temporal_saga.cli._look import Found
from temporal_saga.cli._page import page
from temporal_saga.cli._story import Story, tell
from temporal_saga.cli._text import as_json, show
from tests.cli.test_story import KEYS, NOW, Written

ESCAPE = "\x1b]0;owned\x07\x1b[31m"
NAME = f"é[red]{ESCAPE}"
RESOLVE = ["resolve", "w", KEYS[0], "retry", "--who", "ann", "--why", "x"]


def planted(name: str = NAME) -> Story:
    """A saga with something parked, whose names are not what one expects."""
    written = Written(type=name).do(name, KEYS[0])
    written.fail(written.schedule(f"{name}:undo:{KEYS[0]}"))
    written.decide(KEYS[1], "retry", "ann\\ud800")  # JSON may hold half a character
    now = Now("RUNNING", saga_state="PARKED")
    return tell([read(written.events, now, workflow_id=f"w {ESCAPE}[bold]", run_id="r")])


class _Connection:
    def __init__(self, **_: object) -> None: ...

    async def connect(self, *_: object) -> None: ...


def plant(many: int = 1, settle: Callable[..., Any] | None = None) -> None:
    """Let the commands find that saga, without a server."""

    async def fetch(*_: object, **__: object) -> Story:
        return planted()

    async def look(*_: object, **__: object) -> Found:
        return Found([(["parked"], planted())] * many, 1, has_attribute=True, problems=[NAME])

    async def nothing(*_: object) -> None: ...

    new = {"fetch": fetch, "look": look, "settle": settle or nothing, "Connection": _Connection}
    for name, value in new.items():
        setattr(commands, name, value)


async def _hang(*_: object) -> None:
    print("waiting", flush=True)
    await asyncio.sleep(60)


def program(*args: str, many: int = 1, hangs: bool = False, redirect: str = "", **options: Any) -> Any:
    """Start the command as a process of its own, as a shell would."""
    # Whoever starts the tests in the background of a shell starts them with SIGINT ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"import tests.cli.test_terminal as t; t.plant({many}, {'t._hang' if hangs else None}); t.commands.main()"
    line = f'exec "$0" "$@" {redirect}'
    root = Path(__file__).parents[2]
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.Popen(
        ["sh", "-c", line, sys.executable, "-c", code, *args],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path]), **options.pop("env", {})},
        **options,
    )


@pytest.mark.parametrize("args", [["show", "w"], ["list"], RESOLVE, [*RESOLVE, "--yes"]], ids=lambda args: args[-1])
def test_a_terminal_that_has_few_letters(args: list[str]) -> None:
    """What it does not have is written out, as with PYTHONIOENCODING=ascii."""
    process = program(*args, env={"PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=60)
    assert b"a fault in" not in err
    assert process.returncode == (1 if args is RESOLVE else 0), err
    assert b"\\xe9[red]" in out or b"\xc3\xa9[red]" in out  # click takes ASCII for UTF-8 that somebody forgot to set
    assert b"\x1b" not in out + err


@pytest.mark.parametrize(
    ("redirect", "code", "says"),
    [(">&-", 0, b""), (">/dev/full", 1, b"Error: the output cannot be written: No space left on device\n")],
    ids=["closed", "full"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_an_output_that_cannot_be_written(redirect: str, code: int, says: bytes) -> None:
    process = program("show", "w", "--json", redirect=redirect)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, says)


def test_a_reader_that_goes_away() -> None:
    """`temporal-saga list | head -1` is silent."""
    with program("list", many=500) as process:
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupted_decision_may_have_been_taken() -> None:
    """Ctrl-C while the server has the decision already: its person must not take it for undone."""
    process = program(*RESOLVE, "--yes", hangs=True)
    assert process.stdout.readline() == b"waiting\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"the decision may still be taken" in err
    assert err.count(b"\n") == 1


@pytest.mark.parametrize("args", [["show", "w"], ["list"], RESOLVE, [*RESOLVE, "--yes"]], ids=lambda args: args[-1])
def test_names_cannot_write_to_the_terminal(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters are written out, on a terminal too; marks of `rich` are text."""
    with monkeypatch.context() as patched:
        for name in ("fetch", "look", "settle", "Connection"):
            patched.setattr(commands, name, getattr(commands, name))
        plant()
        said = CliRunner().invoke(commands.cli, args, input="n\n", color=True)
    assert said.exception is None or isinstance(said.exception, SystemExit)
    assert "\x1b]0" not in said.output
    assert "\x07" not in said.output
    assert "[red]" in said.output or "[bold]" in said.output
    assert "\\x1b" in said.output


@pytest.mark.parametrize("width", [40, 60, 99, 100, 160])
def test_a_narrow_terminal_cuts_nothing_off(width: int) -> None:
    """A key that is cut cannot be copied, and a name that is cut cannot be told from another one."""
    out = io.StringIO()
    show(Console(file=out, width=width, force_terminal=True, color_system=None), planted("reserve_the_hotel"), NOW)
    text = out.getvalue()
    assert "…" not in text
    assert text.count(KEYS[0]) >= 2
    assert "reserve_the_hotel" in text


def test_json_and_the_page_of_such_names_can_be_written(tmp_path: Path) -> None:
    story = planted()
    path = tmp_path / "page.html"
    path.write_text(page(story, NOW), encoding="utf-8", errors="xmlcharrefreplace")
    assert "\x1b" not in as_json(story, NOW)


@pytest.mark.parametrize("days", ["1e10", "inf", "nan"])
def test_days_that_no_calendar_has(days: str) -> None:
    said = CliRunner().invoke(commands.cli, ["list", "--days", days])
    assert (said.exit_code, said.stdout) == (1, "")
    assert said.stderr == "Error: --days may be 36500 at most\n"
