"""Exports for other programs."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pytest
import torch

from emorec import EmoRec, cli
from emorec.building import build_model
from emorec.data.sequences import EventSequences
from emorec.data.synthetic import generate
from emorec.exporting import export
from emorec.inference.export import OneUser, exported, item_vectors, user_vectors
from emorec.inference.ranking import ModelScorer
from emorec.storage.files import FileError
from tests.cli.commands import assert_fails, call
from tests.small import small_config

LOG = generate(num_users=30, num_items=60, num_topics=8, events_per_user=12).interactions
PRESETS = ("emorec", "emorec-graph")


def fitted(preset, *settings):
    config = small_config("training.epochs=1", "sequence.max_length=40", *settings, preset=preset)
    return EmoRec(config=config).fit(LOG, progress=False)


@pytest.fixture(scope="module")
def runs():
    return {preset: fitted(preset) for preset in PRESETS}


def events_of(recommender, user):
    """The input of a scorer."""
    events = EventSequences.build(recommender.split.log)
    rows = slice(events.offsets[user], events.offsets[user + 1])
    item, feedback = (
        torch.from_numpy(x[rows].astype(np.int64)) for x in (events.item, events.feedback)
    )
    return item, feedback, torch.from_numpy(events.time[rows] / events.ticks_per_day)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("aversion", [0.0, 0.4, 2.0])
def test_the_inner_product_is_the_first_terms(runs, preset, aversion):
    model, log = runs[preset].model, runs[preset].split.log
    model.aversion = aversion
    scorer, users = ModelScorer(model, log), np.arange(log.num_users)
    product = user_vectors(model, scorer, users) @ item_vectors(model).T
    terms = scorer.terms(torch.from_numpy(users))
    expected = terms.graph if terms.next_item is None else terms.next_item + terms.graph
    torch.testing.assert_close(product, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("aversion", [0.0, 0.4, 2.0])
def test_the_scorer_of_one_user_has_the_whole_ranking(runs, preset, aversion):
    recommender = runs[preset]
    recommender.model.aversion = aversion
    expected = recommender.scorer().terms(torch.arange(LOG.num_users)).total()
    one = OneUser(recommender.model)
    for user in range(recommender.split.train.num_users):
        with torch.no_grad():
            scores = one(*events_of(recommender, user))
        torch.testing.assert_close(scores, expected[user], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_program_gives_the_same_after_saving(runs, preset, tmp_path):
    recommender = runs[preset]
    torch.export.save(exported(recommender.model), str(tmp_path / "scorer.pt2"))
    program = torch.export.load(str(tmp_path / "scorer.pt2")).module()
    one = OneUser(recommender.model)
    for user in range(5):
        item, feedback, days = events_of(recommender, user)
        for number, newest in ((1, 1), (2, 1), (2, 2), (len(item), len(item)), (len(item), 3)):
            some = item[:number], feedback[:number], days[number - newest : number]
            with torch.no_grad():
                torch.testing.assert_close(program(*some), one(*some))


def test_models_that_depend_on_more_cannot_be_exported(runs):
    with pytest.raises(ValueError, match="graph encoder .* cannot be exported"):
        exported(build_model(small_config(), 5, 5))
    config = small_config("sequence.request_time=true", preset="emorec")
    with pytest.raises(ValueError, match="depends on the time of the request"):
        exported(build_model(config, 5, 5))
    config = small_config("graph.conv=none", "graph.paths=5", preset="emorec-graph")
    with pytest.raises(ValueError, match="it has feedback paths alone"):
        item_vectors(build_model(config, 5, 5))


def read(folder, name):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, the extra parquet")
    table = parquet.read_table(folder / f"{name}s.parquet")
    return table[name].to_pylist(), np.stack(table["vector"].to_numpy())


def test_files(runs, tmp_path):
    recommender = runs["emorec"]
    assert export(recommender, tmp_path, scorer=True) is None
    items, vectors = read(tmp_path, "item")
    users, of_users = read(tmp_path, "user")
    log = recommender.split.log
    assert items == log.items.ids == json.loads((tmp_path / "items.json").read_text())
    assert sorted(users) == sorted(log.users.ids)
    scorer = ModelScorer(recommender.model, log)
    expected = user_vectors(recommender.model, scorer, log.users.indices(users))
    np.testing.assert_allclose(of_users @ vectors.T, expected.numpy() @ vectors.T, rtol=1e-5)
    assert torch.export.load(str(tmp_path / "scorer.pt2")) is not None
    about = json.loads((tmp_path / "about.json").read_text())
    assert about["items"] == len(items) and about["width"] == vectors.shape[1]
    # Another export takes the place of this one.
    export(recommender, tmp_path, vectors="npz")
    assert {path.name for path in tmp_path.glob("[!.]*")} == {
        *("about.json", "items.json", "items.npz", "manifest.json", "users.npz")
    }
    arrays = np.load(tmp_path / "items.npz", allow_pickle=False)
    assert arrays["item"].tolist() == items
    np.testing.assert_array_equal(arrays["vector"], vectors)


def test_the_index_finds_the_nearest(runs, tmp_path):
    faiss = pytest.importorskip("faiss", reason="needs faiss, the extra ann")
    quality = export(runs["emorec"], tmp_path, index=True, k=5)
    assert quality.k == 5 and quality.users == len(runs["emorec"].split.log.users.ids)
    assert quality.recall > 0.95  # few items, so nearly all are looked at
    _, vectors = read(tmp_path, "item")
    _, of_users = read(tmp_path, "user")
    index = faiss.read_index(str(tmp_path / "items.faiss"))
    query = np.concatenate([of_users, np.zeros((len(of_users), 1), np.float32)], axis=1)
    _, found = index.search(query, 1)
    best = (of_users @ vectors.T).argmax(1)
    assert (found[:, 0] == best).mean() > 0.95


def test_files_of_others_are_not_replaced(runs, tmp_path):
    (tmp_path / "items.npz").write_text("mine")
    with pytest.raises(FileError, match="items.npz is there and not of an export"):
        export(runs["emorec"], tmp_path, vectors="npz")
    assert (tmp_path / "items.npz").read_text() == "mine"


@pytest.mark.parametrize(
    ("module", "extra", "options"),
    [("faiss", "ann", {"index": True, "vectors": "npz"}), ("pyarrow", "parquet", {})],
)
def test_a_missing_library_is_named(runs, tmp_path, monkeypatch, module, extra, options):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(ImportError, match=rf'pip install "emorec\[{extra}\]"'):
        export(runs["emorec"], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_command(runs, tmp_path):
    run, output = tmp_path / "run", tmp_path / "out"
    runs["emorec"].save(run)
    result = call(cli.main, "export", run, "--output", output, "--vectors", "npz", "--scorer")
    assert result.exit_code == 0, result.output
    for name in ("items.npz", "users.npz", "scorer.pt2", "about.json"):
        assert f"{output / name}  {(output / name).stat().st_size:,} bytes" in result.stdout
    assert_fails(cli.main, "export", run, message="Missing option '--output'")


def test_the_command_says_how_good_the_index_is(runs, tmp_path):
    pytest.importorskip("faiss", reason="needs faiss, the extra ann")
    run, output = tmp_path / "run", tmp_path / "out"
    runs["emorec"].save(run)
    options = ("--vectors", "npz", "--ann", "-k", 3)
    result = call(cli.main, "export", run, "--output", output, *options)
    assert result.exit_code == 0, result.output
    about = json.loads((output / "about.json").read_text())["index"]
    said = (
        "The index finds {recall:.1%} of the 3 items of exact search by inner product, for 30 users"
    )
    assert said.format(**about) in result.stdout


def test_blocks_of_users_are_one_table(runs, tmp_path, monkeypatch):
    export(runs["emorec"], tmp_path / "one")
    monkeypatch.setattr("emorec.exporting._BLOCK", 7)
    export(runs["emorec"], tmp_path / "several")
    (users, vectors), (again, others) = (read(tmp_path / n, "user") for n in ("one", "several"))
    assert users == again and len(users) == 30
    np.testing.assert_allclose(vectors, others, atol=1e-6)


def test_an_export_that_fails_leaves_nothing(runs, tmp_path, monkeypatch):
    def fails(*_):
        raise MemoryError("no more")

    monkeypatch.setattr("emorec.exporting.user_vectors", fails)
    with pytest.raises(MemoryError, match="no more"):
        export(runs["emorec"], tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("[!.]*"))


@pytest.mark.parametrize(
    ("preset", "settings", "terms"),
    [
        ("emorec", ("graph.conv=none", "graph.paths=0", "model.aversion=0"), {"next_item"}),
        ("emorec-graph", ("graph.paths=0",), {"graph"}),
        ("emorec", ("graph.conv=none",), {"next_item", "paths"}),
    ],
)
def test_models_of_some_of_the_terms(preset, settings, terms):
    config = small_config("sequence.max_length=40", "model.aversion=0", *settings, preset=preset)
    model = build_model(config, LOG.num_users, LOG.num_items).eval()
    scorer, users = ModelScorer(model, LOG), np.arange(LOG.num_users)
    found = scorer.terms(torch.from_numpy(users))
    assert {name for name, term in found._asdict().items() if term is not None} == terms
    product = user_vectors(model, scorer, users) @ item_vectors(model).T
    expected = found._replace(paths=None).total()
    torch.testing.assert_close(product, expected, atol=1e-4, rtol=1e-4)
    one, events = OneUser(model), EventSequences.build(LOG)
    for user in range(5):
        rows = slice(events.offsets[user], events.offsets[user + 1])
        given = (torch.from_numpy(x[rows].astype(np.int64)) for x in (events.item, events.feedback))
        days = torch.from_numpy(events.time[rows] / events.ticks_per_day)
        with torch.no_grad():
            scores = one(*given, days)
        torch.testing.assert_close(scores, found.total()[user], atol=1e-4, rtol=1e-4)
