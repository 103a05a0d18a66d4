"""Calls of the commands, and a small log to give them."""

from __future__ import annotations

import re

import numpy as np
from click.testing import CliRunner

HEADER = "user_id,item_id,rating,timestamp"
TINY = ("--backend", "torch", "--embedding-size", "8", "--threads", "1", "--set", "split.n=2")


def log_lines(num_users=6, num_items=12, events=12):
    """Rows of a log; users' and items' ids hold a space and letters beyond ASCII."""
    rng = np.random.default_rng(0)
    return [
        f"Zoë {user},東京 {rng.integers(num_items)},{1 + (user + step) % 5},{1000 + 60 * step}"
        for step in range(events)
        for user in range(num_users)
    ]


def write_log(path, lines, header=HEADER):
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def call(command, *arguments):
    """The result of a command; anything but a clean exit fails the test here."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


def assert_fails(command, *arguments, message, code=(1, 2)):
    result = call(command, *arguments)
    assert result.exit_code in code, result.output
    assert re.search(message, result.stderr), result.stderr
    return result
