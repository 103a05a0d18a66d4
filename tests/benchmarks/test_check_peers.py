"""Checks of other projects' models: one that cannot be run costs no outcome of the others."""

from __future__ import annotations

import check_peers
from click.testing import CliRunner


def test_a_model_that_is_missing_is_named_after_the_page(tmp_path, monkeypatch):
    run = check_peers.run
    outcomes = {"dislikes act": "fails: they do not", "equal seeds": "passed"}

    def run_or_not(environments, name):
        if name == "RecTools EASE":
            return {"versions": {"rectools": "1.0"}, "checks": outcomes}
        return run(environments, name)

    monkeypatch.setattr(check_peers, "run", run_or_not)
    page = tmp_path / "page.md"
    options = ["--environments", str(tmp_path), "--output", str(page)]
    models = ["--model", "Cornac MF", "--model", "RecTools EASE"]
    result = CliRunner().invoke(check_peers.main, [*options, *models])
    assert result.exit_code == 1
    assert "not checked:\n  Cornac MF: " in result.output
    assert str(tmp_path / "cornac") in result.output
    text = page.read_text()
    assert "| dislikes act | **fails** |" in text and "| equal seeds | passed |" in text
    assert "- RecTools EASE, dislikes act: `they do not`" in text
    page.unlink()
    assert CliRunner().invoke(check_peers.main, [*options, *models[:2]]).exit_code == 1
    assert not page.exists()
