"""What the site has beside docs: pages of other folders, notebooks, and pages made of the code.

Pages keep their place in the repository, so that the links between them work there and in the site.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from emorec import ops
from emorec.cli import evaluate, main, recommend, train
from emorec.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "*.md",
    "docs/*.md",
    "benchmarks/*.md",
    "benchmarks/peers/*.md",
    "benchmarks/results/*.md",
)
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")
SOURCES = {".py": "python", ".toml": "toml", "": "text"}
"""Files that a link shows as a page of their own, with the language of their code."""

API = (
    "emorec.recommender",
    "emorec.ops.hawkes_attention",
    "emorec.ops.graph_attention",
    "emorec.ops.node_update",
    "emorec.ops.linear",
    "emorec.ops.softmax_loss",
    "emorec.data.datasets",
    "emorec.baselines.simple",
    "emorec.baselines.tuned",
    "emorec.evaluation.top_k",
    "emorec.evaluation.metrics",
    "emorec.evaluation.dislikes",
    "emorec.evaluation.predictions",
    "emorec.evaluation.significance",
    "emorec.comparison",
    "emorec.updating",
    "emorec.study",
    "emorec.exporting",
    "emorec.config",
    "emorec.settings",
)
"""The modules of the page on Python."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of docs by all that the site has."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    pages = {str(path.relative_to(ROOT)): path for each in PAGES for path in ROOT.glob(each)}
    made = {
        "reference/commands.md": page_of_commands(),
        "reference/settings.md": page_of_settings(),
        "reference/python.md": page_of_api(),
    }
    for path in ROOT.glob("notebooks/*.ipynb"):
        made[f"notebooks/{path.stem}.md"] = page_of_notebook(path)
    for uri, path in pages.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
        for target in linked_files(path):
            name = str(target.relative_to(ROOT))
            if target.suffix in SOURCES:
                made[f"{name}.md"] = page_of_source(target)
            elif target.suffix not in (".md", ".ipynb") and name not in files.src_uris:
                files.append(File.generated(config, name, abs_src_path=str(target)))
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def linked_files(page: Path) -> Iterator[Path]:
    """The files of the repository that a page links to."""
    for _, target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        if path.is_file():
            yield path


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links to notebooks and source code to their pages, and drops those to folders."""
    folder = (ROOT / page.file.src_uri).parent

    def replaced(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = (folder / target).resolve()
        if path.is_dir():
            return text
        if path.suffix == ".ipynb":
            target = target.removesuffix(".ipynb") + ".md"
        elif path.suffix in SOURCES:
            target += ".md"
        return f"[{text}]({target}{anchor})"

    # A comment right above a table is one block with it, unless a blank line follows.
    return re.sub(r"^(<!-- .* -->)\n(?=\|)", r"\1\n\n", LINK.sub(replaced, markdown), flags=re.M)


def on_page_content(content: str, **_: Any) -> str:
    """Converts formulas from LaTeX to MathML, which browsers show without a script."""

    def converted(match: re.Match[str]) -> str:
        is_block = match[1] == "div"
        latex = html.unescape(match[2])
        mathml = latex2mathml.converter.convert(latex, display="block" if is_block else "inline")
        return f"<p>{mathml}</p>" if is_block else mathml

    formula = r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>'
    return re.sub(formula, converted, content, flags=re.DOTALL)


def page_of_commands() -> str:
    """The help of every command."""
    blocks = ["# Commands", "What `--help` prints."]
    named = {"emorec": main, "emorec-train": train, "emorec-evaluate": evaluate}
    for name, command in {**named, "emorec-recommend": recommend}.items():
        blocks += helps(name, command, None)
    return "\n\n".join(blocks)


def helps(name: str, command: click.Command, parent: click.Context | None) -> Iterator[str]:
    """A heading and the help of a command and those below it, without those told elsewhere."""
    context = click.Context(command, parent, name, max_content_width=78, terminal_width=78)
    path = context.command_path
    yield f"## {path}\n\n```text\n{context.get_help()}\n```"
    for each, below in getattr(command, "commands", {}).items():
        if below not in (train, evaluate, recommend):
            yield from helps(each, below, context)


def page_of_settings() -> str:
    """Every setting of the flagship, as ``emorec settings`` prints them."""
    toml = load_config("emorec").to_toml()
    return (
        "# Settings\n\nEvery setting with the value that the flagship has, as `emorec settings` "
        "prints them. Change\none with `--set training.epochs=20`, or several in a file for "
        f"`--config`.\n\n```toml\n{toml}```\n"
    )


def page_of_api() -> str:
    """The public classes and functions, from their docstrings."""
    blocks = ["# Python", "The public classes and functions, by module."]
    for name in API:
        options = "show_root_heading: false, show_root_toc_entry: false"
        if name.startswith("emorec.ops."):  # without references, which share the docstring
            options += f", members: {ops.__all__}"
        blocks.append(f"## {name}\n\n::: {name}\n    options: {{{options}}}")
    return "\n\n".join(blocks)


def page_of_notebook(path: Path) -> str:
    """A notebook as Markdown: text, code, and what the code printed."""
    blocks = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        blocks.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            blocks.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
    return "\n\n".join(blocks)


def page_of_source(path: Path) -> str:
    """A file of code as a page, which the search leaves out."""
    text = path.read_text(encoding="utf-8").rstrip()
    head = "---\nsearch:\n  exclude: true\n---\n"
    name = path.relative_to(ROOT)
    return f"{head}# {name}\n\n````{SOURCES[path.suffix]}\n{text}\n````\n"
