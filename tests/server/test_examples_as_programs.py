"""Each small example on the terminal, from a folder that was copied out: it shares nothing with the others."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from temporalio.client import Client

import examples
import temporal_saga

HERE = Path(examples.__file__).parent
PACKAGE = Path(temporal_saga.__file__).parents[1]

# What the story says at its end, and a command for a worker in a process of its own.
PROGRAMS = {
    "account": ("closed with 7000", ["bring-in", "zoe", "order-1", "10000"], "balance: 10000"),
    "agent_tools": ("canceled hotel Astoria for Cyd", ["start", "zoe", "Rome"], "started"),
    "approval": ("('third', 'withdrawn'", ["start", "zoe", "a forge", "100"], "started"),
    "batch": ("0 paid, 20 failed", ["start", "none", "0"], "started"),
    "export": ("stock: removed", ["start", "zoe", "3"], "started"),
    "cart": ("EXPIRED", ["add", "zoe", "line-1", "cup"], "650"),
    "onboarding": ("CANCELLED", ["start", "zoe@example.com", "zebras"], "started"),
    "payment": ("('capture', 3000, 'cancelled')", ["start", "zoe", "100"], "started"),
    "standing_order": ("begun anew from its first period", ["loop", "start", "zoe", "100"], "started"),
    "versioning": ("Cyd has: flight to Bern", ["start", "zoe", "Rome"], "RUNNING"),
}

# The same of those whose worker and starter are modules of their own.
MODULES = {
    "money_transfer": ("COMPLETED", ["--from", "alice", "--to", "bob", "--amount", "1.00", "--no-wait"], "Started"),
    "order": ("REJECTED (rejected by eve)", ["place", "zoe", "cup"], "placed zoe"),
}


def test_no_example_is_left_out() -> None:
    assert sorted([*PROGRAMS, *MODULES]) == sorted(path.parent.name for path in HERE.glob("*/README.md"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_has_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [f"python -m examples.{name}", "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"examples.{name}.__main__").main()
    assert ended.value.code == 0
    assert "worker" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*PROGRAMS, *MODULES])
def test_each_shares_nothing_with_the_others(name: str) -> None:
    """With the source tree, a copy of the folder would find its neighbors all the same."""
    sources = {path: path.read_text(encoding="utf-8") for path in (HERE / name).glob("*.py")}
    assert [path for path, source in sources.items() if "examples" in source.replace(f"-m examples.{name}", "")] == []


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [*PROGRAMS, *MODULES])
async def test_each_runs_from_a_copy_of_its_folder(client: Client, name: str, tmp_path: Path) -> None:
    """The story, and meanwhile a worker and a starter as processes of their own."""
    shutil.copytree(HERE / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(temporal_saga.__file__).parents[1])
        if "site-packages" not in temporal_saga.__file__
        else "",
        "TEMPORAL_ADDRESS": client.service_client.config.target_host,
    }

    async def program(module: str, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            cwd=tmp_path,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    says, command, answer = (PROGRAMS | MODULES)[name]
    is_one = name in PROGRAMS
    worker = await (program(name, "worker") if is_one else program(f"{name}.worker"))
    story = await program(name)
    try:
        assert worker.stdout is not None
        assert b"working" in (await worker.stdout.readline()).lower()
        starter = await program(name if is_one else f"{name}.starter", *command)
        shown = (await starter.communicate())[0].decode()
        assert (starter.returncode, answer in shown) == (0, True), shown
        told = (await story.communicate())[0].decode()
        assert (story.returncode, says in told) == (0, True), told
    finally:
        for each in (worker, story):
            if each.returncode is None:
                each.send_signal(signal.SIGTERM)
                await each.communicate()
