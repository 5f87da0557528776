"""The site's Sphinx extension: the pages of docs/ as they are, and what only a site has.

docs/README.md is the site's index: its second-level headings are the captions of the sidebar, and the pages that it
links to are the pages of the site, in that order. Beside each page lies its Markdown twin, for people's assistants;
`llms.txt` lists the twins.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.parsers.rst.states import Inliner
from docutils.utils import new_document
from myst_parser.sphinx_ import Parser as MystParser
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/temporal-saga/temporal-saga/blob/main/"
MODULES = [
    "temporal_saga",
    *(f"temporal_saga.{name}" for name in ("errors", "presets", "plugin", "fence", "classification", "testing")),
]
REFERENCE = ["reference/index", *(f"reference/{name.rpartition('.')[2]}" for name in MODULES)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect what is below to the build."""
    app.add_role("saga", name_role)
    app.connect("source-read", read_source)
    app.add_directive("page", Page)
    # Before napoleon, which reads the sections.
    app.connect("autodoc-process-docstring", mark_code, priority=100)
    app.connect("html-page-context", link_to_twin)
    app.connect("build-finished", write_twins)
    return {"parallel_read_safe": True}


# --- links -----------------------------------------------------------------------------------------------------------


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


def read_source(app: Sphinx, docname: str, content: list[str]) -> None:
    """Give the index its table of contents, and every page its links."""
    if docname != "index":
        content[0] = for_the_site(content[0])
        return
    for caption, section in sections((ROOT / "docs/README.md").read_text()):
        pages = pages_of(section) + (["reference/index"] if caption == "Reference" else [])
        if not pages:
            continue
        lines = "\n   ".join(pages)
        content[0] += f"\n.. toctree::\n   :hidden:\n   :caption: {caption}\n\n   {lines}\n"


class Page(Directive):
    """Shows a Markdown file of the repository."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the file. Sphinx's `include` gives a file of another syntax no chance to have its links changed."""
        path = ROOT / self.arguments[0]
        document = new_document(str(path), self.state.document.settings)
        parser = MystParser()
        parser.parse(for_the_site(path.read_text()), document)
        document.transformer.populate_from_components((parser,))
        document.transformer.apply_transforms()
        self.state.document.settings.record_dependencies.add(str(path))
        return document.children


# --- docstrings ------------------------------------------------------------------------------------------------------


def name_role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Inliner, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Link a name of the library, and show everything else as code."""
    if re.fullmatch(r"[A-Za-z_][\w.]*", text):
        role = inliner.document.settings.env.domains["py"].role("obj")
        return role("py:obj", rawtext, text, lineno, inliner)  # type: ignore[no-any-return]
    return [nodes.literal(rawtext, text)], []


def mark_code(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make a code block of what is indented, unless it belongs to a section such as `Args:`."""
    lines[:] = blocks_marked([line for line in lines if line != "PYTEST_DONT_REWRITE"], markdown=False)


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


# --- twins -----------------------------------------------------------------------------------------------------------


def link_to_twin(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Say in a page's head where its twin is."""
    if doctree is not None:
        twin = f'<link rel="alternate" type="text/markdown" href="{page.rpartition("/")[2]}.md">'
        context["metatags"] = context.get("metatags", "") + twin


def write_twins(app: Sphinx, error: Exception | None) -> None:
    """Write the twins and `llms.txt` beside the pages."""
    if error is not None or app.builder.name != "html":
        return
    out = Path(app.outdir)
    for name in sorted(app.env.found_docs):
        (out / f"{name}.md").write_text(twin_of(name))
    (out / "llms.txt").write_text(llms_txt(app.config.html_baseurl))


def twin_of(name: str) -> str:
    """Return a page as Markdown."""
    if name == "index":
        text = for_the_site((ROOT / "docs/README.md").read_text(), twin=True)
        return text.rstrip("\n") + "\n\n[All public names](reference/index.md), by module.\n"
    if name == "changelog":
        return for_the_site((ROOT / "CHANGELOG.md").read_text(), twin=True)
    if name == "reference/index":
        links = [f"- [`{module}`]({module.rpartition('.')[2]}.md)" for module in MODULES]
        return "# Reference\n\n" + "\n".join(links) + "\n"
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
            for own, member in vars(value).items():
                member = getattr(member, "__func__", member)
                if not own.startswith("_") and getattr(member, "__doc__", None) and not inspect.isclass(member):
                    if inspect.isfunction(member) or isinstance(member, property):
                        parts += [f"### {name}.{own}", *described(own, member)]
    return "\n\n".join(part for part in parts if part) + "\n"


def described(name: str, value: object) -> list[str]:
    """Return a name's signature, if it has one, and its docstring."""
    parts: list[str] = []
    if callable(value):
        try:
            parts.append(f"```python\n{name}{inspect.signature(value)}\n```")
        except (TypeError, ValueError):
            parts = []
    has_own = inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, property)
    return [*parts, docstring(value) if has_own or type(value).__module__.startswith("temporal_saga") else ""]


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
        entries = re.findall(r"^\[\*\*([^\]]+)\*\*\]\(([^)]+)\)\.?((?:.|\n(?!\n))*)", for_the_site(section), re.MULTILINE)
        lines += ["", f"## {caption}", ""] if entries else []
        for title, target, text in entries:
            page = re.sub(r"\.(md|rst)$", ".md", target)
            lines.append(f"- [{title}]({base}{page}): {' '.join(text.split())}")
        if caption == "Reference":
            for module in MODULES:
                summary = (importlib.import_module(module).__doc__ or "").partition("\n")[0]
                lines.append(f"- [{module}]({base}reference/{module.rpartition('.')[2]}.md): {summary}")
    return "\n".join(lines) + "\n"
