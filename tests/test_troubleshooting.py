"""docs/troubleshooting.md has each message that the library raises or logs, and none that it has not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import temporal_saga
from temporal_saga import Saga
from tests.driver import Run
from tests.rules.workflows import flow

PACKAGE = Path(temporal_saga.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
# The command's messages are for its user, who has asked for them. A fault of the simulator's is described by its page.
OTHERS = ("cli", "testing/simulator", "testing/explorer/_findings.py")
MAKERS = re.compile(
    r"(^|\.|_)(RuntimeError|TypeError|ValueError|ArgumentTypeError|AttributeError|ApplicationError|CompensationError|"
    r"Conflict|DuplicateStep|Fenced|FenceMisuse|KeyMisuse|SagaClosed|SagaDeadlineExceeded|SagaStateTooLarge|refuse|"
    r"rejected|logger\.(warning|error))$"
)
ANYTHING = "…"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """The library's code, as far as a message is made of it."""

    def __init__(self) -> None:
        paths = [path for path in PACKAGE.rglob("*.py") if not path.relative_to(PACKAGE).as_posix().startswith(OTHERS)]
        self.modules = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(paths)}
        self.functions: dict[str, list[Function]] = {}
        self.module_of: dict[ast.AST, ast.Module] = {}
        for module in self.modules.values():
            for node in ast.walk(module):
                self.module_of[node] = module
                if isinstance(node, Function):
                    self.functions.setdefault(node.name, []).append(node)

    def messages(self) -> Iterator[tuple[str, str]]:
        """Yield where each message is made, and the message, with `…` for its values."""
        for name, module in self.modules.items():
            around = {
                child: node for node in ast.walk(module) if isinstance(node, Function) for child in ast.walk(node)
            }
            for node in ast.walk(module):
                if isinstance(node, ast.Call) and node.args and MAKERS.search(ast.unparse(node.func)):
                    for text in self.texts(node.args[0], around.get(node, module)):
                        if re.search("[a-z]{3}", text) and "has no attribute" not in text:  # Python's own
                            is_log = "logger" in ast.unparse(node.func)
                            yield f"{name}:{node.lineno}", re.sub("%[sdr]", ANYTHING, text) if is_log else text

    def texts(self, node: ast.expr, scope: ast.AST, *, follow: bool = True) -> list[str]:
        """Return what an expression may be as text; `follow` looks into the function that it calls."""
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else []
        if isinstance(node, ast.JoinedStr):
            texts = [""]
            for at, part in enumerate(node.values):
                value = part.value if isinstance(part, ast.FormattedValue) else part
                is_told = isinstance(value, ast.Constant) or (
                    isinstance(value, ast.Name) and (at == 0 or value.id.isupper())
                )
                ends = self.texts(value, scope, follow=False) if is_told else [ANYTHING]
                if at == 0 and is_told and not isinstance(value, ast.Constant):
                    ends = [end if " " in end else ANYTHING for end in ends]  # a name of several is a value
                if isinstance(part, ast.FormattedValue) and part.conversion == ord("r"):
                    ends = [end if end == ANYTHING else repr(end) for end in ends]
                texts = [text + end for text in texts for end in ends]
            return texts
        if isinstance(node, ast.BinOp):
            return [left + ANYTHING for left in self.texts(node.left, scope)]
        if isinstance(node, ast.IfExp):
            return self.texts(node.body, scope) + self.texts(node.orelse, scope)
        if isinstance(node, ast.Name):
            return self._assigned(node.id, scope, follow) or [ANYTHING]
        called = self.functions.get(ast.unparse(node.func).rpartition(".")[2], []) if isinstance(node, ast.Call) else []
        if follow and len(called) == 1:
            returned = [each.value for each in ast.walk(called[0]) if isinstance(each, ast.Return) and each.value]
            return [text for value in returned for text in self.texts(value, called[0], follow=False)] or [ANYTHING]
        return [ANYTHING]

    def _assigned(self, name: str, scope: ast.AST, follow: bool) -> list[str]:
        module = self.module_of[scope]
        for where in (scope, module):
            values: list[ast.expr] = []
            for node in ast.walk(where) if where is not module else module.body:
                if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == [name]:
                    values.append(node.value)
                if isinstance(node, ast.NamedExpr) and node.target.id == name:
                    values.append(node.value)
            texts = [text for value in values for text in self.texts(value, where, follow=follow)]
            if texts:
                return texts
        return []


def entries(*, of_the_sdk: bool = False) -> list[str]:
    """Return what the first column of the page's tables has, or that of the table with the SDK's own messages."""
    before, heading, rest = PAGE.read_text().partition("\n## What the SDK says\n")
    theirs, *after = rest.partition("\n## ")
    assert heading
    text = theirs if of_the_sdk else "".join([before, *after])
    return [entry for _, entry in re.findall(r"^\| (`+)(.+?)\1 \|", text, re.MULTILINE)]


def begins(message: str, entry: str) -> bool:
    return message.startswith(entry.removesuffix(ANYTHING).rstrip(" ;"))


def test_the_page_has_every_message_and_each_of_its_messages_exists() -> None:
    """Whoever looks for a message finds it; a message that has changed has not stayed on the page."""
    messages = [(where, text) for where, text in Source().messages() if text.strip("… ;")]
    found = entries()
    missing = {(where, text) for where, text in messages if not any(begins(text, each) for each in found)}
    assert not missing, "describe these in docs/troubleshooting.md"
    stale = {each for each in found if not any(begins(text, each) for _, text in messages)}
    assert not stale, "the library does not say these any more"


def test_the_messages_are_read_from_the_source() -> None:
    """Guards the test above: the reader of the source finds messages of each kind of spelling."""
    texts = {text for _, text in Source().messages()}
    assert len(texts) > 110
    for beginning in (
        "a Saga is entered once",  # a constant
        "saga … passed its deadline",  # with a value
        "the state of saga … is in use in this run",  # returned by a function
        "undo() of …, which is not armed",  # put together from names
        "a blocking connection needs",  # one of two
        "The body of saga … raised …, which",  # a log's
    ):
        assert any(text.startswith(beginning) for text in texts), beginning


def test_a_step_without_a_timeout_is_what_the_page_says() -> None:
    """The very first mistake: the message is the SDK's, and it is on the page."""

    @flow
    async def body() -> None:
        async with Saga() as saga:
            await saga.execute_activity("charge", 1, compensation="refund")

    run = Run(body).start()
    assert run.task_failure is not None
    (said,) = [each for each in entries(of_the_sdk=True) if "timeout" in each]
    assert run.task_failure[1:] == ("ValueError", said)
