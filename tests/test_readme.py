"""The documents: their code runs, their links lead somewhere, their lists are complete."""

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from emorec import EmoRec
from emorec.config import Config
from emorec.data.datasets import load_dataset
from emorec.data.rules import FeedbackRules
from emorec.ops import hawkes_attention
from tests.small import small_config

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ATTENTION = ROOT / "docs" / "attention.md"
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("benchmarks/peers/*.md"),
        *ROOT.glob("benchmarks/results/*.md"),
    ]
)


def python_of(page: Path) -> list[str]:
    """The Python code of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def prose_of(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_the_quick_start_runs(tmp_path: Path):
    snippet, _ = python_of(README)
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "popular" in done.stdout  # the user it does not know
    assert done.stdout.count("model") == 10
    assert (tmp_path / "my-run" / "model.safetensors").exists()


def test_the_code_of_the_usage_page_runs(tmp_path: Path, monkeypatch):
    config = small_config("training.epochs=1", preset="emorec")
    log = load_dataset("synthetic")
    EmoRec(config=config).fit(log, progress=False).save(tmp_path / "my-run")
    monkeypatch.chdir(tmp_path)
    rows = [
        f"user-{user:04},{log.items.ids[item]},5,{2_000_000_000 + item}"
        for user in range(1, 6)
        for item in range(6)
    ]
    (tmp_path / "today.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]))
    found: dict = {}
    for snippet in python_of(ROOT / "docs" / "usage.md"):
        exec(snippet, found)
    assert set(found["scores"]["source"]) == {"model"}
    assert len(found["items"]) == len(found["users"]) == 10


def test_the_code_of_the_page_on_extending_runs(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    for snippet in python_of(ROOT / "docs" / "extending.md"):
        exec(snippet, found)
    assert len(found["lists"]) == 3
    assert found["recommender"].config.graph.size == 32
    likes = found["split"].history.is_positive.sum()
    assert found["scorers"]["NetLikes"].net.sum() == 2 * likes - len(found["split"].history)
    assert found["plays"].feedback.tolist() == [0, 2, 3, 1]  # thumbs decide before seconds


def test_the_rules_of_the_questions_are_rules():
    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    rules = re.findall(r"`((?:ex|im)plicit_\w+ = [^`]+)`", text)
    assert len(rules) == 3
    for rule in rules:
        assert len(FeedbackRules.from_dict(tomllib.loads(rule)).rules) == 1


@pytest.mark.parametrize("decay", ["additive", "multiplicative"])
def test_the_attention_is_what_its_page_says(decay):
    (snippet,) = python_of(ATTENTION)
    if decay == "multiplicative":
        line = re.search(r'^scores = scores - .*  # decay="multiplicative": (.*)$', snippet, re.M)
        assert line is not None
        snippet = snippet.replace(line[0], f"scores = {line[1]}")
        snippet = snippet.replace('decay="additive"', 'decay="multiplicative"')
        assert "exponent)" in snippet and snippet.count("multiplicative") == 1
    found: dict = {}
    exec(snippet, found)
    torch.testing.assert_close(found["output"], found["expected"])


def test_the_call_in_the_readme_runs():
    _, call = python_of(README)
    (snippet,) = python_of(ATTENTION)
    found: dict = {}
    exec(snippet.partition("output =")[0], found)
    exec(call, found)
    assert found["output"].shape == found["value"].shape


def test_the_written_signature_is_that_of_the_operator():
    text = ATTENTION.read_text(encoding="utf-8")
    (written,) = re.findall(r"^hawkes_attention\((.*?)\)$", text, re.M | re.DOTALL)
    parameters = inspect.signature(hawkes_attention).parameters.values()
    expected: list[str] = []
    for each in parameters:
        if each.kind is inspect.Parameter.KEYWORD_ONLY:
            expected += [] if "*" in expected else ["*"]
            expected.append(f"{each.name}={each.default!r}".replace("'", '"'))
        else:
            expected.append(each.name)
    assert re.sub(r"\s+", " ", written) == ", ".join(expected)


def test_the_two_commands_come_first():
    first, *_ = re.findall(r"```\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert [line.split("  ")[0] for line in first.splitlines()] == ["make train", "make test"]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{target}: there is no {other}"
        if anchor:
            assert anchor in anchors_of(other), f"{target}: no such heading"


def test_rules_in_the_documents_are_rules():
    data = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    stars, grades = re.findall(r"```toml\n(.*?)```", data, re.DOTALL)
    shown = FeedbackRules.from_dict(tomllib.loads(stars)).rules
    assert [str(rule) for rule in shown] == [
        str(rule) for rule in FeedbackRules.load("ratings").rules
    ]
    assert len(FeedbackRules.from_dict(tomllib.loads(grades)).rules) == 4


@pytest.mark.parametrize("page", [README, *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_settings_in_the_documents_exist(page: Path):
    config = Config()
    sections = "|".join(name for name in vars(config) if name != "preset")
    pattern = rf"(?<![\w./])({sections})\.([a-z_]+)(?![\w/])"
    text = re.sub(
        r"^```python.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M
    )
    text += "".join(re.findall(r'"[^"\n]*"', "".join(python_of(page))))  # settings that code gives
    found = set(re.findall(pattern, text))
    for section, key in found:
        assert key in ("py", "md") or hasattr(getattr(config, section), key), f"{section}.{key}"
    assert found or page.name not in ("README.md", "data.md", "models.md", "usage.md")


def test_every_module_is_listed():
    text = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    folders: list[str] = []
    listed = set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = line.strip().split("  ")[0]
        if " " in names and "," not in names:  # a long name, with one blank before its meaning
            names = names.split(" ")[0]
        folders = folders[:depth]
        for name in names.split(", "):
            listed.add("/".join([*folders, name.rstrip("/")]))
        if names.endswith("/") and "," not in names:
            folders.append(names.rstrip("/"))
    missing = [name for name in listed if not (ROOT / name).exists()]
    assert not missing
    modules = {
        str(path.relative_to(ROOT))
        for folder in ("emorec", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py" and "peers" not in path.parts
    }
    assert modules <= listed, sorted(modules - listed)
