"""Find a Temporal CLI, whose ``server start-dev`` is the dev server, or get one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_HERE = Path(__file__).parent
_PACKAGE = "github.com/temporalio/cli/cmd/temporal"
_DOWNLOAD_SECONDS = 180
_PROGRESS_SECONDS = 10


class DevServerError(RuntimeError):
    """There is no Temporal dev server; the message says how to get one."""

    def __init__(self, *reasons: str) -> None:
        ways = (
            "TEMPORAL_ADDRESS=host:port, a server that is running already",
            "TEMPORAL_CLI=/path/to/temporal, or `temporal` on the PATH",
            "a network on which the SDK can download the CLI",
            "Go on the PATH, and a network on which it can download modules, to build the CLI",
        )
        super().__init__(
            "No Temporal dev server. Each of these is a way to have one:\n"
            + "".join(f"  - {way}\n" for way in ways)
            + "What was tried:\n"
            + "".join(f"  - {reason}\n" for reason in reasons)
        )


def find_cli() -> Path:
    """Find the Temporal CLI; download or build it, once, where there is none.

    Looks at ``TEMPORAL_CLI``, at the PATH and at the cache; then lets the SDK download the version
    that our ``go.mod`` names, or builds it with Go. Progress goes to stderr. Several processes may
    call this at the same time: one does the work, the others wait for it.

    Returns:
        The absolute path of an executable.

    Raises:
        DevServerError: There is no CLI and no way to get one.
    """
    if given := os.environ.get("TEMPORAL_CLI"):
        named = shutil.which(given)
        if named is None:
            raise DevServerError(f"TEMPORAL_CLI={given} is not an executable file")
        return Path(named).absolute()
    if on_path := shutil.which("temporal"):
        return Path(on_path).absolute()

    version = pinned_version()
    # The name that the SDK gives to a download of this version: both ways share one cache.
    cli = cache_directory() / f"temporal-{version}"
    if cli.exists():
        return cli
    try:
        cli.parent.mkdir(parents=True, exist_ok=True)
        with _alone(cli.with_name(f"{cli.name}.lock")):
            if not cli.exists():
                _download_or_build(cli, version)
    except OSError as err:
        raise DevServerError(f"the cache cannot be used (set XDG_CACHE_HOME): {err}") from err
    return cli


def cache_directory() -> Path:
    """Where the CLI is kept: outside the tree, so that each clone finds it again."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path is invalid and must be ignored.
    return (given if given.is_absolute() else _home() / ".cache") / "temporal-saga"


def pinned_version() -> str:
    """The CLI's version in our ``go.mod``, such as ``v1.9.1``."""
    found = re.search(r"github\.com/temporalio/cli (v\S+)", (_HERE / "go.mod").read_text())
    assert found, "go.mod requires github.com/temporalio/cli"
    return found[1]


def _home() -> Path:
    """The user's home, also where HOME is not set or empty."""
    if given := os.environ.get("HOME"):
        return Path(given)
    if sys.platform == "win32":
        return Path.home()
    # Not Path.home(): it takes an empty HOME for the root directory.
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container's user, whom the password database does not know
        return Path(tempfile.gettempdir()) / f"temporal-saga-{os.getuid()}"


@contextmanager
def _alone(lock: Path) -> Generator[None]:
    """Let one process in at a time.

    The lock is the operating system's: it ends with its holder, so none can be left behind.
    """
    if sys.platform == "win32":
        raise DevServerError("on Windows the CLI must be installed by hand")
    import fcntl

    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process is getting the Temporal CLI; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download_or_build(cli: Path, version: str) -> None:
    not_downloaded = _download(cli, version)
    if not_downloaded is None:
        return
    not_built = _build(cli, version)
    if not_built is None:
        return
    raise DevServerError(f"the SDK's download: {not_downloaded}", f"building with Go: {not_built}")


def _download(cli: Path, version: str) -> str | None:
    """Download the CLI with the SDK; say why if that fails."""
    _say(f"downloading the Temporal CLI {version} with the SDK")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TEMPORAL_")}
    command = [sys.executable, str(_HERE / "_download.py"), str(cli.parent), version]
    # The download starts a server, which writes to its HOME.
    with tempfile.TemporaryDirectory() as home:
        try:
            done = subprocess.run(
                command,
                env={**environment, "HOME": home},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_DOWNLOAD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"not done after {_DOWNLOAD_SECONDS} s"
    # The file counts, not the exit code: it is moved into place only when it is complete.
    if cli.exists():
        return None
    return done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"


def _build(cli: Path, version: str) -> str | None:
    """Build the CLI with Go, as our ``go.mod`` and ``go.sum`` pin it; say why if that fails."""
    go = shutil.which("go")
    if go is None:
        return "no `go` on the PATH"
    _say(f"no download; building the Temporal CLI {version} with Go, once (about 5 minutes)")
    for left_behind in cli.parent.glob(f"{cli.name}.*.part"):
        left_behind.unlink()
    part = cli.with_name(f"{cli.name}.{os.getpid()}.part")
    symbol = "github.com/temporalio/cli/internal/temporalcli.Version"
    command = [go, "build", "-C", str(_HERE), "-mod=readonly", "-buildvcs=false", "-trimpath", "-v"]
    command += ["-ldflags", f"-s -w -X {symbol}={version[1:]}", "-o", str(part), _PACKAGE]
    environment = {**os.environ, "HOME": str(_home()), "CGO_ENABLED": "0", "GOWORK": "off"}
    start = time.monotonic()
    try:
        last_lines = _run(command, environment)
        if last_lines is not None:
            return last_lines
        part.replace(cli)
    finally:
        part.unlink(missing_ok=True)
    _say(f"built {cli} in {time.monotonic() - start:.0f} s")
    return None


def _run(command: list[str], environment: dict[str, str]) -> str | None:
    """Run ``go build -v`` with a line of progress now and then; its last lines if it fails."""
    downloaded = compiled = 0
    start = said = time.monotonic()
    tail: deque[str] = deque(maxlen=8)
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                tail.append(line.rstrip())
                downloaded += line.startswith("go: downloading ")
                compiled += not line.startswith("go: ")
                if time.monotonic() - said >= _PROGRESS_SECONDS:
                    said = time.monotonic()
                    _say(f"{said - start:.0f} s: {downloaded} modules downloaded, {compiled} packages compiled")
        except BaseException:
            process.kill()
            raise
    if process.returncode == 0:
        return None
    return f"exit code {process.returncode}\n    " + "\n    ".join(tail)


def _say(text: str) -> None:
    print(f"dev server: {text}", file=sys.stderr, flush=True)
