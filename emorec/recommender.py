"""`EmoRec`: fit, update, save, load."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

from emorec.building import build_model, check_device, check_memory
from emorec.config import Config, load_config
from emorec.data.interactions import Interactions, k_core, require_choice
from emorec.data.items import Items, read_items, require_items
from emorec.data.splits import Split, hold_out_validation, split_newest
from emorec.data.stores import forgotten_users, is_store
from emorec.data.titles import Titles
from emorec.data.vocabulary import Vocabulary
from emorec.fitted import FittedRecommender, NotFittedError
from emorec.nn.model import Recommender
from emorec.processes import ALONE, World
from emorec.run_folder import (
    CHECKPOINT,
    existing_file,
    load_cold_rows,
    load_items,
    load_split,
    new_files,
    read_config,
    save_cold_rows,
    save_config,
    save_items,
    save_split,
)
from emorec.settings import SplitConfig
from emorec.storage.files import FileError
from emorec.storage.folders import MANIFEST, checked_file, only_writer, read_manifest
from emorec.storage.tensors import load_tensors, save_tensors
from emorec.texts import count
from emorec.threads import threads
from emorec.training.checkpoint import EpochRecord, load_parameters
from emorec.training.cold_items import ColdItems

__all__ = ["EmoRec", "NotFittedError"]


class EmoRec(FittedRecommender):
    """A recommender that takes and returns the caller's own ids.

    Args:
        preset: Name of a preset, see `emorec.config.preset_names`; None: the flagship, "emorec".
        settings: Overrides such as ``"training.epochs=20"``.
        config: A whole configuration, in place of the two.

    Raises:
        ValueError: If both a preset and a configuration are given, or a setting is wrong.

    Examples:
        >>> from emorec import EmoRec
        >>> from emorec.data.datasets import load_dataset
        >>> log = load_dataset("synthetic")
        >>> recommender = EmoRec("emorec", "training.epochs=1").fit(log, progress=False)
        >>> recommender.recommend([log.users.ids[0]], k=3).columns.tolist()
        ['user', 'rank', 'item', 'score', 'liked', 'source']
    """

    def __init__(
        self, preset: str | None = None, *settings: str, config: Config | None = None
    ) -> None:
        if config is not None and preset is not None:
            raise ValueError(
                f"give either a preset and settings or a whole config, got {preset!r} and a config"
            )
        super().__init__(config or load_config(preset or "emorec", settings=settings))

    def fit(
        self,
        data: Any,
        *,
        items: Any = None,
        checkpoint: Path | None = None,
        on_epoch: Callable[[list[EpochRecord]], None] = lambda records: None,
        progress: bool = True,
        start: EmoRec | None = None,
        world: World = ALONE,
    ) -> Self:
        """Trains the model on a log.

        The validation split chooses the epoch; then training continues on train and validation
        together, see `emorec.training.fitting.fit_model`. The process keeps the memory that
        training frees, see `emorec.memory.keep_freed_memory`.

        Args:
            data: A log, from which a validation split is held out: `Interactions`, the name of a
                file, or a DataFrame (of pandas, or any library with the Arrow C stream interface,
                such as polars) with the columns user_id, item_id, rating and timestamp, or those
                that the section ``data`` of the configuration names. Or a `Split`: its train split
                is fitted, its validation split chooses the epoch, and only `recommend` uses its
                test split.
            items: Titles of the items, which lists and explanations then show, and features, by
                which items that are not in the log can be recommended, see `cold_items`: the name
                of a file or a DataFrame with the columns item_id and title, or those that the
                section ``data`` of the configuration names, and others; or `Titles` or `Items`.
                None: the file that ``data.items`` names, if any.
            checkpoint: File to write after each epoch, and to resume from if it exists. Refitting
                writes one of its own beside it.
            on_epoch: Called after each epoch with all records so far.
            progress: Whether to show a progress bar.
            start: A fitted recommender of the same configuration, whose parameters training starts
                from; see `update`.
            world: The processes that train together, see `emorec.processes.joined`; each calls
                `fit` with the same arguments, and has the same model in the end. Of a `Split`, all
                but the first may have their own users' events alone, see
                `emorec.training.shares.shared_split`.

        Warns:
            UserWarning: If there is no validation data, rows are left out (without a rating,
                matched by no rule, or repeated), the log has no times, items have no title or are
                not in the log, or columns of items cannot be used as features.

        Raises:
            ValueError: If the log or the titles cannot be used, or another process is training in
                the checkpoint's folder.
            TrainingError: If training fails.
        """
        from emorec.training.fitting import fit_model  # late: a saved model answers without it
        from emorec.training.loop import most_epochs

        if not isinstance(data, Split):
            data, core = self._log_of(data), self.config.data
            data = k_core(data, core.min_user_events, core.min_item_events)
            data = hold_out_validation(data, **self.config.split.rule)
        require_choice(data.train, "the log")
        if self.config.sequence.request_time and data.train.time_unit == "none":
            raise ValueError(
                "sequence.request_time is true, which needs a log with times; this one has none"
            )
        known = self._items_of(items, data.train.items)
        config, valid = self.config, data.valid_targets
        if world.is_first and not len(valid):
            epochs = count(most_epochs(config, False), "epoch")
            warnings.warn(
                f"no validation data, so training runs for {epochs}: "
                f"{_why_no_targets(data, config.split)}",
                stacklevel=2,
            )
        checkpoint = checkpoint and Path(checkpoint)
        check_memory(config, data.train.num_users, data.train.num_items, copies=4)
        model = build_model(config, data.train.num_users, data.train.num_items)
        with (
            only_writer(checkpoint.parent) if checkpoint and world.is_first else nullcontext(),
            threads(config.training.threads),
        ):
            self.records = fit_model(
                model,
                config,
                data,
                checkpoint,
                on_epoch,
                progress,
                None if start is None else start._start_of(data.train),
                world,
            )
        self._model, self._split, self._items = model.eval(), data, known
        self._cold, features = None, known.features
        if features is not None and features.num_cold:
            with threads(config.training.threads):
                self._cold = ColdItems.predicted(model, config, data, features)
        self._was_given_test = len(data.test) > 0
        return self

    def update(
        self,
        events: Any,
        *,
        items: Any = None,
        progress: bool = True,
    ) -> EmoRec:
        """Learns on from new events, users and items, without starting anew.

        The newest fifth of each user's new events (with ``split.method=time`` of all new events) is
        the test split of the new recommender, and the fifth before it is the validation split. All
        others, with the whole log so far, are learned from.
        Training starts from this recommender's parameters; those of a new item are means over the
        items that it is similar to. An epoch counts only if it is better on validation than no
        training. Then training continues with the validation split, as in `fit`.

        This recommender stays as it is, so that both can be judged by the test split before one
        replaces the other: see `emorec.updating.judge_update`.

        Args:
            events: New events, in any form that `fit` takes except a split, with the same columns.
                If they are the URL of a service's store, nothing is learned from users who asked
                the service to be forgotten, but what they did since.
            items: Titles and features of the items, as in `fit`; None: those of this recommender.
            progress: Whether to show a progress bar.

        Returns:
            The new recommender.

        Raises:
            ValueError: If there are no new events, or too few to judge a model by.
            NotFittedError: Before `fit`.
        """
        start = self.without_forgotten(events)
        split = start.split_with(events)
        new = EmoRec(config=self.config_of_update())
        known = self.items_for(split.train.items) if items is None else items
        new.fit(split, items=known, progress=progress, start=start)
        new._was_given_test = self._was_given_test
        return new

    def items_for(self, items: Vocabulary) -> Items:
        """What is known of the items of another log: titles, features, cold items."""
        return self._items.of_log(items)

    def split_with(self, events: Any) -> Split:
        """The log with new events, of which the newest are held out; see `update`.

        Raises:
            ValueError: If there are no new events, or too few to judge a model by.
        """
        later = self.read_events(events)
        log = self.split.log
        both = log if later is None else log.followed_by(later, new_items=True)
        if len(both) == len(log):
            raise ValueError(
                "there are no new events: the log of the model has all that were given"
            )
        return split_newest(both, len(both) - len(log), self.config.split.method)

    def without_forgotten(self, events: Any) -> EmoRec:
        """This recommender without the users who asked a service to be forgotten.

        Args:
            events: The URL of the service's store; with anything else nobody is left out.
        """
        gone = forgotten_users(events) if is_store(events) else []
        return self.without_users(gone) if (self.split.log.users.indices(gone) >= 0).any() else self

    def without_users(self, users: Iterable[Any]) -> EmoRec:
        """A copy whose log holds neither rows nor ids of some users.

        Its parameters, which were learned from their events too, are the same.

        Raises:
            NotFittedError: Before `fit`.
        """
        split = self.split.without_users(users)
        copy = EmoRec(config=self.config)
        model = build_model(self.config, split.train.num_users, split.train.num_items)
        self._start_of(split.train)(model)
        copy._model, copy._split, copy._items = model.eval(), split, self._items
        copy._was_given_test = self._was_given_test
        if self._cold is not None and self._items.features is not None:
            rows = self._cold.rows
            copy._cold = ColdItems.with_rows(model, self.config, split, self._items.features, rows)
        return copy

    def config_of_update(self) -> Config:
        """The configuration with what this recommender's validation split chose."""
        from emorec.training.parts import with_chosen_horizon

        return with_chosen_horizon(self.config, self.split.valid_targets)

    def _start_of(self, log: Interactions) -> Callable[[Recommender], None]:
        """Initialises a model of a log with this recommender's parameters."""
        from emorec.training.warm_start import start_from_model

        known = self.split.train
        return lambda model: start_from_model(model, self.model, log, known.users, known.items)

    def _items_of(self, items: Any, vocabulary: Vocabulary) -> Items:
        """What `fit` is given of items; warns at its caller about what does not match."""
        data = self.config.data
        source = data.items or None if items is None else items
        if isinstance(source, Items):
            return source
        if source is None:
            require_items(data.item_features)
            return Items()
        if isinstance(source, Titles):
            return Items(Titles(source.of(vocabulary.ids), vocabulary))
        found, notes = read_items(source, vocabulary, **data.reading_items)
        for note in notes:
            warnings.warn(note, stacklevel=3)
        return found

    def save(self, folder: str | Path) -> None:
        """Writes everything that `load` needs: settings, parameters, ids, titles and history.

        All of it is written, or nothing: whatever goes wrong, what was there before still loads.

        Raises:
            NotFittedError: Before `fit`; nothing is written then.
            FileError: If there is a file in the folder's place, or another process is training
                there or saving.
            OSError: If the files cannot be written, for instance because the disk is full.
        """
        folder, split, parameters = Path(folder), self.split, self.model.state_dict()
        if folder.exists() and not folder.is_dir():
            raise FileError(f"{folder} is a file; a model is a folder of several, give its name")
        with new_files(folder) as written:
            save_config(written, self.config)
            save_split(written, split)
            save_items(written, self._items)
            if self._cold is not None:
                save_cold_rows(written, self._cold.rows)
            save_tensors(written / "model.safetensors", parameters, {})

    @classmethod
    def load(
        cls,
        folder: str | Path,
        backend: str | None = None,
        aversion: float | None = None,
        device: str | None = None,
    ) -> Self:
        """Reads what `save` or ``emorec-train`` wrote.

        Args:
            folder: The run folder.
            backend: Library for sums over edges in place of the run's; parameters fit both.
            aversion: ``model.aversion`` in place of the run's; it is not trained.
            device: Where to compute, in place of where the run was trained.

        Warns:
            UserWarning: If an earlier version of EmoRec saved the model, without a manifest.

        Raises:
            FileError: If a file is missing, damaged or not of the same save as the others.
            ConfigError: If ``aversion`` is given and the model has neither polarity head for items
                nor paths, or if the device does not exist.
        """
        folder = Path(folder)
        written = read_manifest(folder)
        config = read_config(folder)
        for name, value in (("backend", backend), ("aversion", aversion)):
            if value is not None:
                config = config.updated({"model": {name: value}}, name)
        if device is not None:
            config = config.updated({"training": {"device": device}}, "device")
        check_device(config)
        recommender = cls(config=config)
        split = load_split(folder)
        items = load_items(folder, split.train.items)
        check_memory(config, split.train.num_users, split.train.num_items)
        model = build_model(recommender.config, split.train.num_users, split.train.num_items)
        if checked_file(folder, "model.safetensors") is None and (folder / CHECKPOINT).is_file():
            raise FileError(
                f"{folder}: training is not finished; "
                f"continue it with emorec-train --resume {folder}"
            )
        path = existing_file(folder, "model.safetensors")
        tensors, _ = load_tensors(path)
        try:
            load_parameters(model, tensors)
        except ValueError as error:
            raise FileError(
                f"{path}: does not fit config.toml, or is of another version of EmoRec ({error})"
            ) from error
        if read_manifest(folder) != written:
            raise FileError(f"{folder}: another model was saved there just now; load it again")
        if written is None:
            warnings.warn(
                f"{folder} holds no {MANIFEST}: whether its files belong together is not checked; "
                "save the model again to add one",
                stacklevel=2,
            )
        recommender._model = model.to(recommender.config.training.device).eval()
        recommender._split, recommender._items = split, items
        recommender._load_cold(folder)
        return recommender

    def _load_cold(self, folder: Path) -> None:
        """Adds the cold items of a run folder, if it has any."""
        rows, features = load_cold_rows(folder), self._items.features
        if rows is None or features is None:
            return
        try:
            self._cold = ColdItems.with_rows(self.model, self.config, self.split, features, rows)
        except ValueError as error:
            raise FileError(
                f"{folder / 'cold_items.safetensors'}: the cold items are of another model, or "
                f"damaged ({error})"
            ) from error


def _why_no_targets(data: Split, options: SplitConfig) -> str:
    """Why there is nothing to validate on, and what would help."""
    name = "n" if options.method == "leave_last_out" else "days" if options.days else "quantile"
    setting = f"split.{name} (now {getattr(options, name)})"
    if len(data.valid):
        return (
            f"all {len(data.valid):,} held-out rows are of users or items that the others lack; "
            f"{'raise' if name == 'quantile' else 'lower'} {setting}, or drop rare ones"
        )
    reasons = {"time": "no row is late enough", "random": "there are too few rows"}
    return f"{reasons.get(options.method, 'histories are too short')}; lower {setting}"
