"""The site of the documentation: it is built without warnings and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emorec import EmoRec

pytest.importorskip("mkdocs", reason="needs emorec[docs]")
pytest.importorskip("latex2mathml", reason="needs emorec[docs]")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_the_documents_are_pages(site: Path):
    names = [path.stem for path in ROOT.glob("docs/*.md")]
    assert all((site / "docs" / f"{name}.html").is_file() for name in names)
    for name in ("index", "CHANGELOG", "CONTRIBUTING", "benchmarks/index"):
        assert (site / f"{name}.html").is_file()
    assert 'href="docs/usage.html#the-report"' in read(site / "index.html")
    assert 'href="../emorec/nn/polarity.py.html"' in read(site / "docs" / "extending.html")


def test_pages_load_nothing_from_elsewhere(site: Path):
    for page in site.rglob("*.html"):
        assert not re.findall(r'<(?:script|img|iframe)[^>]* src="https?:', read(page)), page
        assert not re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="https?:', read(page)), page


def test_formulas_are_mathml(site: Path):
    page = read(site / "docs" / "metrics.html")
    assert page.count("<math") > 20
    assert 'display="block"' in page
    assert "arithmatex" not in page and "$" not in re.sub(r"<script.*?</script>", "", page)


def test_commands_settings_and_classes_are_listed(site: Path):
    reference = site / "reference"
    commands = read(reference / "commands.html")
    for name in ("emorec-train", "emorec-recommend", "emorec explain", "emorec data describe"):
        assert f">{name}<" in commands, name
    assert "--aversion" in commands
    assert "weight of log P(liked)" in read(reference / "settings.html")
    python = read(reference / "python.html")
    public = [name for name in dir(EmoRec) if not name.startswith("_")]
    for name in public:
        assert f'id="emorec.recommender.EmoRec.{name}"' in python, name
    for name in ("ops.softmax_loss.softmax_loss", "study.Study", "config.Config"):
        assert f'id="emorec.{name}"' in python, name


def test_notebooks_are_shown_with_what_they_print(site: Path):
    page = read(site / "notebooks" / "quickstart.html")
    assert "EmoRec" in page and "user-0001" in page
    assert 'href="likes-and-dislikes.html"' in page
