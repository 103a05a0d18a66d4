from __future__ import annotations

import gzip
import sys

import pytest
import torch

from emorec import cli
from tests.cli.commands import HEADER, TINY, assert_fails, call, log_lines


def edited(column, value, row=4):
    lines = log_lines()
    cells = lines[row].split(",")
    cells[column] = value
    lines[row] = ",".join(cells)
    return "\n".join([HEADER, *lines])


def with_column(column, value):
    lines = []
    for line in log_lines():
        cells = line.split(",")
        cells[column] = value
        lines.append(",".join(cells))
    return "\n".join([HEADER, *lines])


WHOLE = "\n".join([HEADER, *log_lines()])
BAD_DATA = {
    "missing column": (WHOLE.replace("rating", "stars", 1), "no column 'rating'.*'stars'"),
    "unparsable time": (edited(3, "soon"), "line 6 of .*'timestamp': 'soon' is not a valid time"),
    "infinite rating": (edited(2, "inf"), "line 6 of .*'rating': inf is not a finite number"),
    "negative time": (edited(3, "-5"), "line 6 of .*'timestamp': -5 is negative"),
    "empty file": ("", "log.csv is empty"),
    "header alone": (HEADER, "log.csv has a header and no rows"),
    "duplicate header": (WHOLE.replace("item_id", "user_id", 1), "names column 'user_id' 2 times"),
    "one user": (with_column(0, "me"), "has 1 user only; .*at least two users and two items"),
    "one item": (with_column(1, "it"), "has 1 item only; .*at least two users and two items"),
    "one event each": ("\n".join([HEADER, *log_lines(events=1)]), "no user has more than n = 2"),
}


class TestBadInput:
    def fails(self, tmp_path, *arguments, message):
        folder = tmp_path / "run"
        assert_fails(
            cli.train, *arguments, "--run-dir", folder, "--epochs", 1, *TINY, message=message
        )
        assert not folder.exists()  # nothing half done is left

    @pytest.mark.parametrize("name", BAD_DATA)
    def test_data(self, tmp_path, name):
        content, message = BAD_DATA[name]
        (tmp_path / "log.csv").write_text(content, encoding="utf-8")
        self.fails(tmp_path, "--dataset", tmp_path / "log.csv", message=message)

    def test_one_moment_cannot_be_cut(self, tmp_path):
        (tmp_path / "log.csv").write_text(with_column(3, "1000"), encoding="utf-8")
        self.fails(
            tmp_path, "--dataset", tmp_path / "log.csv", "--set", "split.method=time",
            message="test split is empty: none of .* rows is later than the 0.9 quantile",
        )  # fmt: skip

    def test_truncated_gz(self, tmp_path):
        whole = gzip.compress(WHOLE.encode())
        (tmp_path / "log.csv.gz").write_bytes(whole[: len(whole) // 2])
        self.fails(
            tmp_path, "--dataset", tmp_path / "log.csv.gz",
            message="log.csv.gz: the compressed file is truncated",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("rules", "message"),
        [
            ('explicit_positive = "rating == 77"', "no rule matches any of the 72 rows"),
            ('explicit_positive = "len(rating) > 1"', "a function call is not allowed"),
            ("explicit_positive = \"__import__('os').getcwd()\"", "function call is not allowed"),
            ('explicit_positive = "stars > 3"', "stars"),
            ('love = "rating > 3"', "love"),
        ],
    )
    def test_rules(self, log, tmp_path, rules, message):
        file = tmp_path / "rules.toml"
        file.write_text(rules)
        self.fails(tmp_path, "--dataset", log, "--set", f"data.rules={file}", message=message)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--set", "training.epoch=2"], "unknown setting 'training.epoch'; .*mean 'epochs'"),
            (["--set", "epochs"], "must look like section.key=value"),
            (["--batch-size", "0"], "--batch-size: training.batch_size must be at least 1, got 0"),
            (["--preset", "emogat"], "emo-gat"),
            (
                ["--preset", "diff-gat", "--set", "graph.heads=3"],
                "graph.heads is 3, which must divide model.embedding_size, 8",
            ),
            (["--device", "mps"], "training.device is 'mps', must be 'cpu', 'cuda' or 'cuda:1'"),
            (
                ["--seed", str(2**63)],
                "training.seed must be at most 9,223,372,036,854,775,807, got 9223372036854775808",
            ),
            (["--device", "tpu"], "training.device 'tpu' is not a device; use 'cpu' or 'cuda'"),
            (["--config", "gone.toml"], "gone.toml: cannot be read"),
            (["--epoch", "3"], "No such option"),
            (["--set", "training.threads=100000"], "training.threads must be at most 1,024"),
            (["--set", "model.embedding_size=1000000000"], "embedding_size must be at most 16,384"),
            (["--set", "evaluation.k=1000000000000000"], "evaluation.k must be at most 10,000"),
            (["--config", "/dev/zero"], "/dev/zero: cannot be read: it is a device"),
        ],
    )
    def test_options(self, log, tmp_path, arguments, message):
        self.fails(tmp_path, "--dataset", log, *arguments, message=message)

    def test_a_model_larger_than_the_memory(self, log, tmp_path):
        arguments = ["--preset", "emo-sage-thp", "--set", "sequence.layers=64"]
        arguments += ["--embedding-size", "16384", "--set", "sequence.projections=true"]
        folder = tmp_path / "run"
        message = "the model's parameters take .* GiB, more than the .* GiB of this machine"
        assert_fails(cli.train, "--dataset", log, *arguments, "--run-dir", folder, message=message)
        assert not folder.exists()

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError("Unable to allocate 7 TiB"),
            torch.OutOfMemoryError("CUDA out of memory. Unable to allocate 7 TiB"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory: Unable to allocate 7 TiB"),
        ],
    )
    def test_memory_that_ends_while_training(self, log, tmp_path, monkeypatch, error):
        def fails(*_, **__):
            raise error

        monkeypatch.setattr("emorec.training.parts.training_batches", fails)
        assert_fails(
            cli.train, "--dataset", log, "--run-dir", tmp_path / "run", *TINY,
            message="out of memory .*Unable to allocate 7 TiB.; lower training.batch",
        )  # fmt: skip

    def test_other_errors_of_the_program_are_not_hidden(self, log, tmp_path, monkeypatch):
        def fails(*_, **__):
            raise RuntimeError("a bug")

        monkeypatch.setattr("emorec.training.parts.training_batches", fails)
        with pytest.raises(RuntimeError, match="a bug"):
            call(cli.train, "--dataset", log, "--run-dir", tmp_path / "run", *TINY)

    def test_misspelt_key_in_a_file(self, log, tmp_path):
        file = tmp_path / "my.toml"
        file.write_text("[training]\nepoch = 3\n")
        self.fails(
            tmp_path, "--dataset", log, "--config", file,
            message="my.toml: unknown setting 'training.epoch'; did you mean 'epochs'",
        )  # fmt: skip

    def test_no_such_data(self, tmp_path):
        self.fails(
            tmp_path, "--dataset", "ml-1n",
            message="'ml-1n', which is neither a file here nor a data set; did you mean",
        )  # fmt: skip

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_no_cuda(self, log, tmp_path):
        self.fails(
            tmp_path, "--dataset", log, "--device", "cuda", message="PyTorch finds no CUDA device"
        )

    @pytest.mark.parametrize("preset", ["emorec", "diff-gat"])
    def test_no_dgl_unless_it_is_asked_for(self, log, tmp_path, monkeypatch, preset):
        monkeypatch.setitem(sys.modules, "dgl", None)
        arguments = ["--dataset", log, "--epochs", 1, "--preset", preset, "--set", "split.n=3"]
        result = call(cli.train, *arguments, "--run-dir", tmp_path / "auto")
        assert result.exit_code == 0, result.output
        said = "Sums over the graph's edges: PyTorch, because DGL cannot be imported"
        assert result.stdout.count(said) == 1
        assert 'backend = "auto"' in (tmp_path / "auto" / "config.toml").read_text()

    def test_no_dgl(self, log, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "dgl", None)
        arguments = ["--dataset", log, "--preset", "diff-gat", "--run-dir", tmp_path / "run"]
        message = "pip install dgl==1.1.3.*--backend torch"
        assert_fails(cli.train, *arguments, "--backend", "dgl", message=message)
        assert not (tmp_path / "run").exists()

    def test_a_learning_rate_far_too_high(self, log, tmp_path):
        assert_fails(
            cli.train, "--dataset", log, "--run-dir", tmp_path / "run", *TINY,
            "--learning-rate", "1e30", "--epochs", 3, message="lower training.learning_rate",
        )  # fmt: skip
