"""The notebooks run from top to bottom, and are stored without more than what they print."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def cells_of(path: Path, kind: str) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored(path: Path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in cells_of(path, "code"):
        assert cell["execution_count"] is None
        assert {output["output_type"] for output in cell["outputs"]} <= {"stream"}
    assert path.stat().st_size < 20_000


def run(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict:
    """Runs the cells in one namespace, as a kernel would, and returns it."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "agg")
    (path,) = [path for path in NOTEBOOKS if path.stem == name]
    found: dict = {"__name__": "__main__"}
    for cell in cells_of(path, "code"):
        exec(compile("".join(cell["source"]), str(path), "exec"), found)
    return found


def test_quickstart(tmp_path, monkeypatch):
    found = run("quickstart", monkeypatch, tmp_path)
    assert found["again"].equals(found["lists"])
    assert found["first"] not in set(found["after"]["item"])
    assert len(found["similar"]) == 3


def test_likes_and_dislikes(tmp_path, monkeypatch):
    found = run("likes-and-dislikes", monkeypatch, tmp_path)
    share = found["table"]["disliked share"]
    assert share.is_monotonic_decreasing
    assert found["tests"].loc[("disliked_share", "aversion 10"), "holm_t"] < 0.05
    assert found["lists"]["liked"].corr(found["lists"]["truth"], method="spearman") > 0.2
