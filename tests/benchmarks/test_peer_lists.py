"""The way of the files to a peer and back, with a peer that needs no environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import peer_lists
import pytest
from click.testing import CliRunner
from peers.exchange import Lists, Task, top_k

from emorec.data.feedback import Feedback
from emorec.data.splits import split_interactions
from tests.small import small_log

LIKE, DISLIKE = Feedback.EXPLICIT_POSITIVE, Feedback.EXPLICIT_NEGATIVE
TASK = Task(
    user=np.array([0, 0, 2]),
    item=np.array([1, 0, 3]),
    liked=np.array([True, False, True]),
    users=np.array([2, 0]),
    num_users=3,
    num_items=5,
    k=3,
)

# Six users walk along sixty items, each ten ahead of the one before; a step liked, a step not.
STEPS = 25
WALK = small_log(
    [
        (user, (10 * user + step) % 60, (LIKE, DISLIKE)[step % 2], step)
        for step in range(STEPS)
        for user in range(6)
    ],
    6,
    60,
)
# Recommends what comes after a user's last item, with shift 1 and after epoch 2 alone.
WALKER = """#!{python}
import sys
import numpy as np
sys.argv = sys.argv[-4:]
from peers.exchange import serve

def train(task, settings):
    assert "checkout" not in settings
    last = {{u: i for u, i in zip(task.user.tolist(), task.item.tolist())}}
    for epoch in settings["epochs"]:
        first = settings["shift"] if epoch == 2 else 30
        yield epoch, lambda: np.array(
            [[(last[u] + first + n) % 60 for n in range(task.k)] for u in task.users.tolist()]
        )

serve(train)
"""


def test_tasks_and_lists_survive_their_files(tmp_path):
    TASK.save(tmp_path / "task.npz")
    again = Task.load(tmp_path / "task.npz")
    assert {k: np.array(v).tolist() for k, v in vars(again).items()} == {
        k: np.array(v).tolist() for k, v in vars(TASK).items()
    }
    assert isinstance(again.k, int)
    lists = Lists(TASK.users, np.zeros((1, 2, 3), int), np.array([4]), np.array([0.5]))
    lists.save(tmp_path / "lists.npz")
    assert Lists.load(tmp_path / "lists.npz").items.shape == (1, 2, 3)


def test_a_task_has_the_past_in_order_and_nothing_else():
    data = small_log(
        [(1, 4, LIKE, 9), (0, 2, DISLIKE, 5), (1, 3, DISLIKE, 2), (0, 0, LIKE, 5)], 3, 5
    )
    held_out = small_log([(1, 2, LIKE, 10), (1, 0, LIKE, 11)], 3, 5)
    task = peer_lists.task_of(data, held_out, k=7)
    assert task.user.tolist() == [0, 0, 1, 1]
    assert task.item.tolist() == [2, 0, 3, 4]  # equal times keep the order of the log
    assert task.liked.tolist() == [False, True, False, True]
    assert task.users.tolist() == [1]
    assert (task.num_users, task.num_items, task.k) == (3, 5, 7)


class TestTopK:
    def test_leaves_out_what_was_seen_and_what_nobody_has(self):
        # Items 2 and 4 occur nowhere. User 2 has item 3, user 0 items 0 and 1.
        scores = [[1, 2, 9, 8, 9], [5, 5, 5, -1, 5]]
        assert top_k(np.array(scores), TASK).tolist() == [[1, 0, -1], [3, -1, -1]]

    def test_of_equal_scores_the_lower_index_is_first(self):
        assert top_k(np.zeros((1, 5)), TASK, np.array([1])).tolist() == [[0, 1, 3]]

    def test_scores_stay_as_they_are(self):
        scores = np.ones((2, 5))
        top_k(scores, TASK)
        assert (scores == 1).all()

    def test_lists_longer_than_the_catalogue_are_padded(self):
        task = Task(**{**vars(TASK), "k": 7})
        assert top_k(np.zeros((1, 5)), task, np.array([1])).tolist() == [[0, 1, 3, -1, -1, -1, -1]]


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    python = tmp_path / "walkers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(WALKER.format(python=sys.executable))
    python.chmod(0o755)
    facts = {
        "runner": "walker",
        "environment": "walkers",
        "epochs": [1, 2, 3],
        "grid": {"shift": [30, 1]},
    }
    monkeypatch.setitem(peer_lists.PEERS, "walker", facts)
    return tmp_path


def test_chooses_on_validation_and_lists_for_the_test_part(environments, monkeypatch, tmp_path):
    monkeypatch.setattr(peer_lists, "load_dataset", lambda *_: WALK)
    # click fixed the choice of peers when the module was imported.
    monkeypatch.setattr(peer_lists, "PEERS", {"walker": peer_lists.PEERS["walker"]})
    options = ["--dataset", "walk", "--environments", environments, "--lists", tmp_path]
    command = [str(option) for option in options]
    result = CliRunner().invoke(peer_lists.main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "walk-leave-10-walker.json").read_text())
    assert facts["settings"] == {"shift": 1, "seed": 0, "epochs": [1, 2, 3]}
    assert facts["epochs"] == 2
    assert [(one["settings"]["shift"], one["epoch"]) for one in facts["tries"]] == [(30, 1), (1, 2)]
    assert facts["test"]["recall_any"] == 1
    assert facts["test"]["disliked_share"] == 0.5
    users, lists = peer_lists.read_top_k(tmp_path / "walk-leave-10-walker.npz")
    assert users.tolist() == [0, 1, 2, 3, 4, 5]
    assert lists.items[2].tolist() == [35, 36, 37, 38, 39, 40, 41, 42, 43, 44]
    again = CliRunner().invoke(peer_lists.main, command, catch_exceptions=False)
    assert "walk-leave-10-walker.npz is there" in again.output


def test_a_log_without_a_validation_part_is_refused(environments, monkeypatch):
    short = WALK.select(WALK.time < 12)
    monkeypatch.setattr(peer_lists, "load_dataset", lambda *_: short)
    command = ["--dataset", "walk", "--environments", str(environments)]
    result = CliRunner().invoke(peer_lists.main, command)
    assert result.exit_code == 2
    assert "walk is too short for a validation split" in result.output


def test_fewer_epochs_are_the_first_of_them(environments):
    peer = peer_lists.Peer("walker", environments)
    assert peer.combinations(2, seed=5) == [
        {"shift": 30, "seed": 5, "epochs": [1, 2]},
        {"shift": 1, "seed": 5, "epochs": [1, 2]},
    ]
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        peer.combinations(0, seed=5)


def test_settings_in_place_of_the_grids(environments):
    peer = peer_lists.Peer("walker", environments)
    overrides = peer_lists.parsed(("shift=7",), "walker")
    assert peer.combinations(1, 5, overrides) == [{"shift": 7, "seed": 5, "epochs": [1]}]
    with pytest.raises(click.UsageError, match=r"--set step=7: walker has no 'step' \(one of: sh"):
        peer_lists.parsed(("step=7",), "walker")
    with pytest.raises(click.UsageError, match="--set shift=x: 'x' is no JSON value"):
        peer_lists.parsed(("shift=x",), "walker")


def test_a_peer_that_fails_says_so(environments):
    peer = peer_lists.Peer("walker", environments)
    split = split_interactions(WALK)
    with pytest.raises(subprocess.CalledProcessError):
        peer.run(peer_lists.task_of(split.train, split.test, 10), {"epochs": [2]})


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="run benchmarks/peers/setup.sh"):
        peer_lists.Peer("ials", tmp_path)
    python = tmp_path / "authors" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    with pytest.raises(FileNotFoundError, match="'siren' runs its authors' code.*--checkouts"):
        peer_lists.Peer("siren", tmp_path)


def test_every_peer_has_a_runner_and_an_environment():
    folder = Path(peer_lists.__file__).parent / "peers"
    for name, facts in peer_lists.PEERS.items():
        assert (folder / f"{facts['runner']}.py").exists(), name
        assert (folder / "environments" / f"{facts['environment']}.txt").exists(), name
        assert facts["epochs"] == sorted(facts["epochs"]), name
