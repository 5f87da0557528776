"""What the tests of the command line share: running it, and comparing what it says with a snapshot."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from temporal_saga.cli._commands import cli

SNAPSHOTS = Path(__file__).parent / "snapshots"


@dataclass(frozen=True)
class Said:
    """What a command has said, and how it ended."""

    code: int
    out: str
    err: str


async def run(*args: str, answer: str = "") -> Said:
    """Run the command line in a thread, as it has an event loop of its own."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, args, input=answer)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


def plain(text: str) -> str:
    """Return a text without what differs from run to run: ids, times, and the widths that depend on them."""
    uuids: dict[str, str] = {}

    def name(found: re.Match[str]) -> str:
        return uuids.setdefault(found[0], f"<id {len(uuids) + 1}>")

    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name, text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "<date>", text)
    text = re.sub(r"\b\d+(\.\d)? (ms|s|min|h|d)\b", "<time>", text)
    text = re.sub(r"(workflow task has failed) (once|\d+ times)", r"\1 <n> times", text)
    text = re.sub(r"\d+ (history|histories) read", "<n> histories read", text)
    return re.sub(r" {2,}", "  ", text)


def check_snapshot(name: str, text: str) -> None:
    """Compare with a snapshot; `UPDATE_SNAPSHOTS=1` writes it anew."""
    path = SNAPSHOTS / f"{name}.txt"
    text = plain(text)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path.name} is missing: write it with UPDATE_SNAPSHOTS=1, and read it"
    assert text == path.read_text(encoding="utf-8")
