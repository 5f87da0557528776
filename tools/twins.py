"""The site's pages as Markdown, for people's assistants: a twin of each page, and the list of them, `llms.txt`.

docs/README.md is the index: its second-level headings are the kinds of pages, and each paragraph under them begins with
a link to its page.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/temporal-saga/temporal-saga/blob/main/"
MODULES = [
    "temporal_saga",
    *(f"temporal_saga.{name}" for name in ("errors", "presets", "plugin", "fence", "classification", "testing")),
]
REFERENCE = ["reference/index", *(f"reference/{name.rpartition('.')[2]}" for name in MODULES)]


def for_the_site(text: str, *, twin: bool = False) -> str:
    """Return a page with the links of the site in place of those of the repository."""
    text = re.sub(r"\]\((?:\.\./)?CHANGELOG\.md\)", f"](changelog.{'md' if twin else 'rst'})", text)
    text = re.sub(r"\]\(docs/([\w-]+\.md)", r"](\1", text)  # of CHANGELOG.md
    return re.sub(r"\]\(\.\./([^)]+)\)", rf"]({REPOSITORY}\1)", text)


def sections(index: str) -> Iterator[tuple[str, str]]:
    """Yield each second-level heading of the index, and what is under it."""
    yield from re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", index, re.MULTILINE)


def pages_of(section: str) -> list[str]:
    """Return the pages that a section of the index describes, by name: each paragraph begins with its page."""
    return re.findall(r"^\[\*\*[^\]]+\*\*\]\(([\w./-]+)\.(?:md|rst)\)", for_the_site(section), re.MULTILINE)


# --- docstrings ------------------------------------------------------------------------------------------------------


def blocks_marked(lines: list[str], *, markdown: bool) -> list[str]:
    """Return a docstring's lines, with a mark at each block of code."""
    marked: list[str] = []
    at = 0
    in_section = False
    while at < len(lines):
        line = lines[at]
        if line and not line[0].isspace():
            in_section = re.fullmatch(r"[A-Z][a-z]+:", line) is not None
        if not line.startswith("    ") or in_section or (marked and marked[-1]):
            marked.append(line)
            at += 1
            continue
        end = at
        while end < len(lines) and (not lines[end] or lines[end].startswith("    ")):
            end += 1
        block = textwrap.dedent("\n".join(lines[at:end])).strip("\n").splitlines()
        language = "python" if _is_python(block) else "text"
        if markdown:
            marked += [f"```{language}", *block, "```", ""]
        else:
            marked += [f".. code-block:: {language}", "", *("   " + each for each in block), ""]
        at = end
    return marked


def _is_python(block: list[str]) -> bool:
    try:
        ast.parse("async def _():\n" + textwrap.indent("\n".join(block), " "))
    except SyntaxError:
        return False
    return True


# --- pages -----------------------------------------------------------------------------------------------------------


def twin_of(name: str) -> str:
    """Return a page as Markdown."""
    if name == "index":
        text = for_the_site((ROOT / "docs/README.md").read_text(), twin=True)
        return text.rstrip("\n") + "\n\n[All public names](reference/index.md), by module.\n"
    if name == "changelog":
        return for_the_site((ROOT / "CHANGELOG.md").read_text(), twin=True)
    if name == "reference/index":
        links = [f"- [`{module}`]({module.rpartition('.')[2]}.md)" for module in MODULES]
        return "# Python API\n\n" + "\n".join(links) + "\n"
    if name.startswith("reference/"):
        return reference_of(MODULES[REFERENCE.index(name) - 1])
    return for_the_site((ROOT / f"docs/{name}.md").read_text(), twin=True)


def reference_of(module_name: str) -> str:
    """Return the docstrings of a module's public names as Markdown."""
    module = importlib.import_module(module_name)
    parts = [f"# {module_name}", docstring(module)]
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.ismodule(value):
            parts += [f"## {name}", f"A module: see [{value.__name__}]({name}.md)."]
            continue
        parts += [f"## {name}", *described(name, value)]
        if inspect.isclass(value):
            for own, member in methods(value):
                parts += [f"### {name}.{own}", *described(own, member)]
    return "\n\n".join(part for part in parts if part) + "\n"


def methods(owner: type) -> Iterator[tuple[str, object]]:
    """Yield what a class and the library's own classes above it define for users."""
    seen: set[str] = set()
    for each in owner.__mro__:
        for name, member in vars(each).items() if each.__module__.startswith("temporal_saga") else ():
            member = getattr(member, "__func__", member)
            is_shown = inspect.isfunction(member) or isinstance(member, property)
            if is_shown and member.__doc__ and not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, member


def described(name: str, value: object) -> list[str]:
    """Return a name's signature, if it has one, and its docstring."""
    parts: list[str] = []
    if callable(value):
        try:
            parts.append(f"```python\n{name}{plain(inspect.signature(value))}\n```")
        except (TypeError, ValueError):
            parts = []
    has_own = inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, property)
    return [*parts, docstring(value) if has_own or type(value).__module__.startswith("temporal_saga") else ""]


class _Shown(str):
    __slots__ = ()
    __repr__ = str.__str__  # a signature shows it without quotes


def plain(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature that shows its annotations as they are written, and its defaults in short."""

    def as_written(annotation: object) -> object:
        text = getattr(annotation, "__forward_arg__", annotation)  # of a named tuple's field
        return _Shown(text) if isinstance(text, str) else annotation

    def in_short(default: object) -> object:
        if inspect.isfunction(default):
            return _Shown(f"{default.__module__}.{default.__name__}")
        return _Shown("...") if " at 0x" in repr(default) else default

    parameters = [
        each.replace(annotation=as_written(each.annotation), default=in_short(each.default))
        for each in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters, return_annotation=as_written(signature.return_annotation))


def docstring(value: object) -> str:
    """Return a docstring as Markdown."""
    lines = (inspect.getdoc(value) or "").splitlines()
    text = "\n".join(blocks_marked([line for line in lines if line != "PYTEST_DONT_REWRITE"], markdown=True))
    return text.strip()


def llms_txt(base: str) -> str:
    """Return the list of the twins, as llmstxt.org has it."""
    lines = [
        "# temporal-saga",
        "",
        "> Sagas for Temporal workflows in Python: if a workflow ends badly, what it did is undone.",
        "",
        "AGENTS.md in the repository has the rules and the traps for code that uses the library.",
    ]
    for caption, section in sections((ROOT / "docs/README.md").read_text()):
        entries = re.findall(
            r"^\[\*\*([^\]]+)\*\*\]\(([^)]+)\)\.?((?:.|\n(?!\n))*)", for_the_site(section), re.MULTILINE
        )
        lines += ["", f"## {caption}", ""] if entries else []
        for title, target, text in entries:
            page = re.sub(r"\.(md|rst)$", ".md", target)
            lines.append(f"- [{title}]({base}{page}): {' '.join(text.split())}")
        if caption == "Reference":
            for module in MODULES:
                summary = (importlib.import_module(module).__doc__ or "").partition("\n")[0]
                lines.append(f"- [{module}]({base}reference/{module.rpartition('.')[2]}.md): {summary}")
    return "\n".join(lines) + "\n"
