"""A study: trials of settings, each trained and judged on the validation split.

The search is Optuna's. A study is a folder, which a stopped one goes on from:

study.jsonl    Optuna's journal
base.toml      the settings that all trials share
space.toml     what is searched
trials.csv     a row per trial
trials.svg     NDCG of likes against the disliked share, a point per trial
best.toml      all settings of the best trial, for ``emorec-train --config``
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from emorec.config import Config, ConfigError
from emorec.data.sequences import EventSequences
from emorec.data.splits import Split
from emorec.recommender import EmoRec
from emorec.reports.plots import plane_svg
from emorec.storage.files import make_folder, read_text, sync_folder, write_text
from emorec.training.checkpoint import ENCODERS, EpochRecord
from emorec.training.validation import TrainingError, Validation

if TYPE_CHECKING:
    import optuna

__all__ = ["DEFAULT_SPACE", "Goal", "Space", "Study"]

DEFAULT_SPACE = """\
[model]
embedding_size = [32, 64, 128]

[sequence]
layers = [1, 2, 3]
dropout = {low = 0.1, high = 0.5}

[loss]
horizon = [1, 3, 10]

[training]
learning_rate = {low = 1e-3, high = 1e-2, log = true}
"""
"""The space that is searched if none is given; it suits the flagship."""

_FIRST_TRIALS = 5  # that are drawn at random and never stopped early
_FIRST_EPOCHS = 3  # of each trial, before it can be stopped early


@dataclass(frozen=True)
class Goal:
    """What is best.

    Attributes:
        kind: "likes": the highest NDCG of likes; "front": all trials that no other one beats in
            both NDCG of likes and disliked share.
        most_disliked: With "likes": trials with a higher disliked share lose to all others.
    """

    kind: Literal["likes", "front"] = "likes"
    most_disliked: float = 1.0


@dataclass(frozen=True)
class Space:
    """What is searched, by section and setting.

    A list holds the values to choose from; ``{low, high}`` is a range, of whole numbers if both
    ends are, and with ``log = true`` evenly spread in the logarithm.

    Attributes:
        choices: The values or the range of each setting, by its name, such as "sequence.layers".
    """

    choices: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str, source: str, base: Config) -> Space:
        """Reads a space from TOML, and tries its ends and values.

        Args:
            text: The TOML.
            source: Where it comes from, for errors.
            base: The settings that all trials share.

        Raises:
            ConfigError: If it is not TOML, a setting is unknown, or values do not fit it.
        """
        try:
            sections = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source}: is not valid TOML ({error})") from error
        choices: dict[str, Any] = {}
        for section, values in sections.items():
            if not isinstance(values, dict):
                raise ConfigError(f"{source}: {section} must be a section of settings")
            for key, value in values.items():
                name = f"{section}.{key}"
                for extreme in _tried(value, f"{source}: {name}"):
                    base.updated({section: {key: extreme}}, source)
                choices[name] = value
        if not choices:
            raise ConfigError(f"{source}: names no setting to search")
        return cls(choices)

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """The values that a trial takes, by setting."""
        found: dict[str, Any] = {}
        for name, value in self.choices.items():
            if isinstance(value, list):
                found[name] = trial.suggest_categorical(name, value)
                continue
            low, high, log = value["low"], value["high"], value.get("log", False)
            whole = isinstance(low, int) and isinstance(high, int)
            if whole:
                found[name] = trial.suggest_int(name, low, high, log=log)
            else:
                found[name] = trial.suggest_float(name, low, high, log=log)
        return found


class Study:
    """A study in a folder; see the module.

    Args:
        folder: The folder; made if need be, or one of an earlier study to go on with.
        base: The settings that all trials share.
        space: What is searched, as TOML.
        goal: What is best.
        source: Where the space comes from, for errors.

    Raises:
        ImportError: If Optuna is not installed.
        ConfigError: If the space is wrong, or the folder's study has other settings, another space
            or another goal.
    """

    def __init__(
        self,
        folder: Path,
        base: Config,
        space: str = DEFAULT_SPACE,
        goal: Goal | None = None,
        source: str = "the space",
    ) -> None:
        try:
            import matplotlib  # noqa: F401 (of the plot, at the end of a trial)
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
        except ImportError as error:
            raise ImportError('a study needs Optuna: pip install "emorec[tune]"') from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.goal = folder, goal or Goal()
        # The validation split judges; learning on from it would cost time and change nothing.
        self._base = base.updated({"training": {"refit": 0.0}}, "refit")
        self._space = Space.parse(space, source, self._base)
        make_folder(folder)
        self._require_same("base.toml", base.to_toml(), "other settings")
        self._require_same("space.toml", space, "another space")
        self._require_same(
            "goal.txt", f"{self.goal.kind} {self.goal.most_disliked:g}\n", "another goal"
        )
        front = self.goal.kind == "front"
        journal = folder / "study.jsonl"
        lock = JournalFileSymlinkLock(str(journal))
        _cut_unfinished(journal, lock)
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal), lock)),
            study_name="emorec",
            load_if_exists=True,
            directions=["maximize", "minimize"] if front else ["maximize"],
        )
        sync_folder(folder)  # Optuna syncs the journal, but not its name
        for trial in self._study.trials:  # of a process that was killed
            if trial.state == optuna.trial.TrialState.RUNNING:
                self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def run(
        self,
        split: Split,
        num_trials: int,
        on_trial: Callable[[dict[str, Any]], None] = lambda row: None,
        progress: bool = True,
    ) -> None:
        """Runs trials until the study has as many as asked for, those of earlier calls included.

        Every trial is drawn from a seed of its own, so a study that was stopped between trials
        goes on as if it had not been.

        Args:
            split: The log; its test split is not used.
            num_trials: Trials that count: finished, or stopped early.
            on_trial: Called after each trial with its row of `trials`.
            progress: Whether to show progress bars.
        """
        nothing = split.test.select(np.zeros(len(split.test), dtype=bool))
        split = Split(split.train, split.valid, nothing)
        if not len(split.valid_targets):
            raise ValueError("a study needs validation events, and the split has none")
        rows = self.trials()
        if len(rows):
            self._write(rows)  # an earlier call may have failed just before
        while len(rows) < num_trials:
            self._study.sampler = self._sampler(len(rows))
            self._try(split, progress)
            rows = self.trials()
            self._write(rows)
            on_trial({str(name): value for name, value in rows.iloc[-1].items()})

    def trials(self) -> pd.DataFrame:
        """The trials that count, in order.

        Returns:
            Columns ``trial``, ``state`` ("finished" or "stopped early"), ``ndcg_likes``, ``ndcg``,
            ``disliked_share``, ``epochs``, ``seconds``, ``is_best`` and one per setting. A trial
            that was stopped early has the figures of its last epoch, and one whose settings
            exclude each other has the state "failed" and the reason in ``note``.
        """
        rows = []
        for trial in self._study.trials:
            attributes = trial.user_attrs
            if "state" in attributes:
                rows.append({"trial": trial.number, **attributes, **trial.params})
        frame = pd.DataFrame(rows)
        if len(frame):
            frame.insert(2, "is_best", self._is_best(frame))
        return frame

    def best(self) -> Config | None:
        """The settings of the best trial; with the goal "front", of that with most likes."""
        frame = self.trials()
        if not len(frame) or not frame["is_best"].any():
            return None
        row = frame[frame["is_best"]].sort_values("ndcg_likes").iloc[-1]
        trial = self._study.trials[int(row["trial"])]
        refit = {"training": {"refit": self._refit}}
        return self._configured(trial.params).updated(refit, "refit")

    @property
    def _refit(self) -> float:
        return tomllib.loads(read_text(self.folder / "base.toml"))["training"]["refit"]

    def _configured(self, values: Mapping[str, Any]) -> Config:
        options = []
        for name, value in values.items():
            section, _, key = name.partition(".")
            options.append((f"{name}={value}", {section: {key: value}}))
        return self._base.with_options(options)

    def _sampler(self, number: int) -> Any:
        """What draws the settings of a trial, from a seed of its own."""
        from optuna.samplers import TPESampler

        seed = int(np.random.default_rng([self._base.training.seed, number]).integers(2**31))
        return TPESampler(n_startup_trials=_FIRST_TRIALS, seed=seed)

    def _try(self, split: Split, progress: bool) -> None:
        """One trial."""
        import optuna

        state = optuna.trial.TrialState
        trial = self._study.ask()
        pruner = optuna.pruners.MedianPruner(_FIRST_TRIALS, _FIRST_EPOCHS)
        records: list[EpochRecord] = []

        def note(outcome: str, figures: Mapping[str, float]) -> None:
            for name in ("ndcg_likes", "ndcg", "disliked_share"):
                trial.set_user_attr(name, figures.get(name, math.nan))
            share = figures.get("disliked_share", math.nan)
            excess = (1.0 if math.isnan(share) else share) - self.goal.most_disliked
            trial.set_constraint("disliked_share", excess)  # met if at most 0
            trial.set_user_attr("epochs", len(records))
            trial.set_user_attr("seconds", round(sum(each.seconds for each in records), 1))
            trial.set_user_attr("state", outcome)

        def follow(all_records: list[EpochRecord]) -> None:
            records[:] = all_records
            record = records[-1]
            if self.goal.kind == "front" or record.part != ENCODERS or not record.valid:
                return
            trial.report(record.valid["ndcg_likes"], record.epoch)
            frozen = self._study.trials[trial.number]
            if pruner.prune(self._study, frozen):
                raise _StoppedEarly

        try:
            config = self._configured(self._space.draw(trial))
            recommender = EmoRec(config=config).fit(split, on_epoch=follow, progress=progress)
            figures = self._judged(recommender, split)
        except _StoppedEarly:
            note("stopped early", records[-1].valid)
            self._study.tell(trial, state=state.PRUNED)
            return
        except (ConfigError, TrainingError, ValueError) as error:
            trial.set_user_attr("note", str(error))
            note("failed", {})
            self._study.tell(trial, state=state.FAIL)
            return
        note("finished", figures)
        values = [figures["ndcg_likes"], figures["disliked_share"]]
        self._study.tell(trial, values if self.goal.kind == "front" else values[:1])

    def _judged(self, recommender: EmoRec, split: Split) -> dict[str, float]:
        """Figures of the trained model, with the weights of its terms, on the validation split."""
        validation = Validation(
            recommender.model,
            recommender.config,
            split.train,
            EventSequences.build(split.train),
            split.valid_targets,
        )
        return validation()

    def _is_best(self, frame: pd.DataFrame) -> pd.Series:
        """Which trials reach the goal best."""
        done = frame["state"] == "finished"
        likes, share = frame["ndcg_likes"], frame["disliked_share"]
        if self.goal.kind == "likes":
            allowed = done & (share <= self.goal.most_disliked)
            best = likes[allowed].max() if allowed.any() else math.nan
            return allowed & (likes == best)
        beaten = [
            bool(((likes >= a) & (share <= b) & ((likes > a) | (share < b)) & done).any())
            for a, b in zip(likes, share, strict=True)
        ]
        return done & ~pd.Series(beaten, index=frame.index)

    def _write(self, rows: pd.DataFrame) -> None:
        """The table, the plot and the best settings, as far as there are any."""
        write_text(self.folder / "trials.csv", rows.to_csv(index=False))
        if (best := self.best()) is not None:
            write_text(self.folder / "best.toml", best.to_toml())
        done = rows[rows["state"] == "finished"].set_index("trial")
        points = {
            str(number): {name: float(row[name]) for name in ("ndcg_likes", "disliked_share")}
            for number, row in done.iterrows()
        }
        if points:
            plot = plane_svg(points, self._base.evaluation.k, standalone=True)
            write_text(self.folder / "trials.svg", plot)

    def _require_same(self, name: str, text: str, what: str) -> None:
        """Writes a file of the study, or checks that it is the same."""
        path = self.folder / name
        if not path.exists():
            write_text(path, text)
        elif read_text(path) != text:
            raise ConfigError(
                f"{self.folder}: the study there has {what} ({path}); give another folder "
                "for a new study"
            )


def _cut_unfinished(journal: Path, lock: Any) -> None:
    """Removes half a line at the end of a journal, which a process has left that was killed.

    Optuna would write its next line behind it, and could not read the journal any more.
    """
    if not journal.exists():
        return
    lock.acquire()
    try:
        with journal.open("r+b") as file:
            text = file.read()
            if not text.endswith(b"\n"):
                file.truncate(text.rfind(b"\n") + 1)
    finally:
        lock.release()


class _StoppedEarly(Exception):
    """A trial that is behind the median of others."""


def _tried(value: Any, source: str) -> list[Any]:
    """The values of a setting that its space must allow: all of a list, the ends of a range.

    Raises:
        ConfigError: If the setting is neither a list nor a range.
    """
    if isinstance(value, list) and value:
        return value
    if isinstance(value, dict) and {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        low, high, log = value["low"], value["high"], value.get("log", False)
        if all(isinstance(each, int | float) for each in (low, high)) and low < high:
            if not log or low > 0:
                return [low, high]
            raise ConfigError(f"{source}: low is {low}, must be above 0 where log is true")
    raise ConfigError(
        f"{source}: must be a list of values or a range such as {{low = 0.1, high = 0.5}}, got "
        f"{value!r}"
    )
