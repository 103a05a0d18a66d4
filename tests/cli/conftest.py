from __future__ import annotations

import pytest

from emorec import cli
from tests.cli.commands import TINY, call, log_lines, write_log


@pytest.fixture
def log(tmp_path):
    return write_log(tmp_path / "log.csv", log_lines())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run and what its command printed."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_log(folder / "log.csv", log_lines())
    result = call(cli.train, "--dataset", data, "--epochs", 2, "--run-dir", folder / "run", *TINY)
    assert result.exit_code == 0, result.output
    return folder / "run", result
