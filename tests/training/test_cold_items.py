from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from emorec.data.features import ItemFeatures
from emorec.data.interactions import Interactions
from emorec.data.synthetic import generate
from emorec.data.vocabulary import Vocabulary
from emorec.recommender import EmoRec
from emorec.storage.files import FileError
from emorec.training.cold_items import _STRETCHED, ColdItems, _similar
from emorec.training.item_ridge import ItemRidge
from tests.small import small_config

GENRES = ("comedy", "horror")
COLD = ["new comedy", "new horror"]


def taste_log():
    """Forty users of whom half like comedies and dislike horror, and half the reverse."""
    rng, rows = np.random.default_rng(0), []
    for user in range(40):
        for time, item in enumerate(rng.permutation(20)[:14]):
            is_liked = (item % 2) == (user % 2)
            rows.append((f"u{user}", f"i{item}", 0 if is_liked else 3, 1000 * user + time))
    user, item, feedback, time = zip(*rows, strict=True)
    return Interactions.from_columns(user, item, feedback, time)


LOG = taste_log()
ITEMS = pd.DataFrame(
    {
        "item_id": [*(f"i{item}" for item in range(20)), *COLD],
        "title": [*(f"Title {item}" for item in range(20)), "New", "Newer"],
        "genre": [*(GENRES[item % 2] for item in range(20)), *GENRES],
    }
)
SETTINGS = "training.epochs=4", "data.item_features=genre", "graph.paths=5", "model.aversion=1"
TARGETS = "feedback_sum.target.weight"
USERS = [f"u{user}" for user in range(40)]


def fitted_model(preset, *settings, items=ITEMS):
    config = small_config(*SETTINGS, *settings, preset=preset)
    return EmoRec(config=config).fit(LOG, items=items, progress=False)


@pytest.fixture(scope="module", params=["emorec", "emorec-graph"])
def fitted(request):
    with pytest.warns(UserWarning, match="2 items are not in the log and are cold items"):
        return fitted_model(request.param)


class TestLists:
    def test_a_cold_item_of_the_liked_genre_ranks_above_one_of_the_disliked(self, fitted):
        lists = fitted.recommend(USERS, items=COLD, cold=True)
        first = lists[lists["rank"] == 1].set_index("user")["item"]
        expected = [COLD[user % 2] for user in range(40)]
        assert (first[USERS].to_numpy() == expected).mean() > 0.9

    def test_cold_items_are_marked_and_have_titles(self, fitted):
        lists = fitted.recommend(USERS[:2], k=30, cold=True)
        assert lists.columns[-1] == "cold"
        assert set(lists["item"][lists["cold"]]) == set(COLD) == set(fitted.cold_items)
        assert set(lists["title"][lists["cold"]]) == {"New", "Newer"}
        blocks = pd.concat(fitted.recommend_in_blocks(USERS[:2], k=30, block=1, cold=True))
        pd.testing.assert_frame_equal(blocks.reset_index(drop=True), lists)

    def test_lists_without_them_are_those_of_a_model_without_features(self, fitted):
        plain = fitted_model(fitted.config.preset, "data.item_features=*", items=None)
        other = plain.recommend(USERS, k=30)
        lists = fitted.recommend(USERS, k=30)
        pd.testing.assert_frame_equal(lists.drop(columns="title"), other)
        own, its = fitted.model.state_dict(), plain.model.state_dict()
        assert all(torch.equal(own[name], its[name]) for name in its)
        assert plain.cold_items == [] and "cold" not in lists
        with pytest.raises(ValueError, match="cold is true, but the model has no cold items"):
            plain.recommend(USERS[:1], cold=True)

    def test_scores_of_other_items_stay(self, fitted):
        pairs = [(USERS[0], item) for item in LOG.items.ids[:5]]
        scores = fitted.score([*pairs, (USERS[0], COLD[0])], cold=True)
        assert scores["cold"].tolist() == [False] * 5 + [True]
        assert scores["score"].notna().all()
        without = fitted.score(pairs)["score"]
        # Of the paths and dislikes, similarities to cold items may be among the largest.
        assert scores["score"][:5].to_numpy() == pytest.approx(without.to_numpy(), abs=1.0)
        with pytest.warns(UserWarning, match="there are cold items among them, which need cold"):
            assert fitted.score([(USERS[0], COLD[0])])["score"].isna().all()

    def test_events_of_cold_items_count(self, fitted):
        rows = [["x", COLD[1], 5, 1], ["x", COLD[1], 5, 2]]
        events = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
        lists = fitted.recommend(["x"], k=4, events=events, cold=True)
        assert (lists["source"] == "model").all()
        with pytest.warns(UserWarning, match="items without a train event"):
            lists = fitted.recommend(["x"], k=4, events=events)
        assert (lists["source"] == "popular").all()


class TestSimilarAndExplain:
    def test_similar_items_are_of_the_same_genre(self, fitted):
        found = fitted.similar_items(COLD[:1], k=3, cold=True)
        genres = ITEMS.set_index("item_id")["genre"][found["similar"]]
        assert (genres == "comedy").all()
        assert found["cold"].tolist() == [item in COLD for item in found["similar"]]
        with pytest.raises(ValueError, match="which need cold=True"):
            fitted.similar_items(COLD[:1])

    def test_explanations_sum_to_the_score(self, fitted):
        (found,) = fitted.explain(USERS[0], COLD[:1], cold=True)
        score = fitted.score([(USERS[0], COLD[0])], cold=True)["score"][0]
        assert found.score == pytest.approx(score, abs=1e-4)
        assert found.title == "New"
        with pytest.raises(ValueError, match="'new comedy' is not in the .* need cold=True"):
            fitted.explain(USERS[0], COLD[:1])


def test_a_copy_without_some_users_has_the_same_cold_items(fitted):
    copy = fitted.without_users(USERS[2:4])
    others = [*USERS[:2], *USERS[4:]]
    assert copy.cold_items == COLD
    lists, expected = (each.recommend(others, k=30, cold=True) for each in (copy, fitted))
    pd.testing.assert_frame_equal(lists, expected, atol=1e-4)


def test_a_stretch_that_is_given_moves_predictions_from_the_mean(fitted):
    given = fitted.model, fitted.config, fitted.split, fitted._items.features
    at = [ColdItems.predicted(*given, stretch=stretch).rows for stretch in (0.0, 1.0, 2.5)]
    for name in _STRETCHED:
        if name in at[0]:
            mean, one, more = (rows[name] for rows in at)
            torch.testing.assert_close(mean[0], mean[1])
            assert (one - mean).abs().max() > 1e-4
            torch.testing.assert_close(more - mean, 2.5 * (one - mean), rtol=1e-4, atol=1e-6)
    assert "feedback_sum.target.weight" in _STRETCHED


class TestSaveAndLoad:
    def test_the_same_lists(self, fitted, tmp_path):
        fitted.save(tmp_path)
        loaded = EmoRec.load(tmp_path)
        pd.testing.assert_frame_equal(
            loaded.recommend(USERS, k=30, cold=True), fitted.recommend(USERS, k=30, cold=True)
        )
        assert loaded.cold_items == COLD and loaded.titles == fitted.titles

    def test_files_of_another_model_are_refused(self, tmp_path):
        fitted_model("emorec-graph").save(tmp_path)
        fitted_model("emorec-graph", "graph.size=4").save(tmp_path / "other")
        (tmp_path / "manifest.json").unlink()
        rows = (tmp_path / "other" / "cold_items.safetensors").read_bytes()
        (tmp_path / "cold_items.safetensors").write_bytes(rows)
        message = (
            r"cold_items.safetensors: the cold items are of another model, .* must be .* \[C, "
        )
        with pytest.raises(FileError, match=message):
            EmoRec.load(tmp_path)
        (tmp_path / "cold_items.json").write_text('["only one"]')
        with pytest.raises(FileError, match="features.safetensors or cold_items.json is damaged"):
            EmoRec.load(tmp_path)

    def test_rows_of_another_kind_of_model_are_refused(self, fitted):
        features, rows = fitted._items.features, fitted._cold.rows
        given = fitted.model, fitted.config, fitted.split, features
        without = {name: each for name, each in rows.items() if "paths" not in name}
        for wrong, message in (
            (without, "feedback_paths.item is missing"),
            ({}, "feedback_paths.item is missing"),
            (fitted.model.state_dict(), "feedback_paths.decay_length is unknown"),
        ):
            with pytest.raises(ValueError, match=f"^{message}$"):
                ColdItems.with_rows(*given, wrong)

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("feedback_paths.item", lambda x: x[:, 0], r"is \[22\], must be \[22, 1 or more"),
            ("feedback_paths.item", lambda x: x[:, :0], r"is \[22, 0\], must be \[22, 1 or more"),
            ("feedback_paths.item", lambda x: x + 22, "holds .*, but items are numbered from 0"),
            ("feedback_paths.similarity", lambda x: x.double(), "is torch.float64 .*, must be"),
            (TARGETS, lambda x: x[:1], r"is torch.float32 \[21, .*, must be torch.float32 \[22, "),
            (TARGETS, lambda x: x[:, :1], r"is torch.float32 \[2, 1\], must be .* \[C, \d+\]"),
            (TARGETS, lambda x: x[0, 0], r"is torch.float32 \[\], must be .* \[C, \d+\]"),
            (TARGETS, lambda x: x.double(), r"is torch.float64 .*, must be torch.float32 \[C, "),
            (TARGETS, lambda x: x / 0 * 0, "holds NaN"),
        ],
    )  # fmt: skip
    def test_damaged_rows_are_refused(self, fitted, name, change, message):
        features, rows = fitted._items.features, dict(fitted._cold.rows)
        rows[name] = change(rows[name])
        with pytest.raises(ValueError, match=f"{name} {message}") as caught:
            ColdItems.with_rows(fitted.model, fitted.config, fitted.split, features, rows)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400

    def test_of_an_earlier_model_do_not_stay(self, tmp_path):
        fitted_model("emorec-graph").save(tmp_path)
        fitted_model("emorec-graph", "data.item_features=*", items=None).save(tmp_path)
        assert EmoRec.load(tmp_path).cold_items == []
        assert not (tmp_path / "features.safetensors").exists()


@pytest.mark.parametrize("preset", ["diff-gat-thp-polarity", "base-gat"])
def test_models_of_the_paper(preset):
    log = generate(num_users=40, num_items=50, num_topics=8, events_per_user=12).interactions
    warm = log.select(log.item >= 5).reindexed()
    items = pd.DataFrame({"item_id": log.items.ids, "title": log.items.ids})
    items["topic"] = items["item_id"].str[:3]
    config = small_config("training.epochs=1", "data.item_features=topic", preset=preset)
    fitted = EmoRec(config=config).fit(warm, items=items, progress=False)
    lists = fitted.recommend(warm.users.ids[:3], k=60, cold=True)
    assert lists.groupby("user")["cold"].sum().tolist() == [5, 5, 5]
    assert np.isfinite(lists["score"]).all()


class TestSimilarities:
    def test_by_hand(self):
        # Two kinds of items, with large weights of the features: a cold item is its kind's mean.
        features = sparse.csr_matrix(np.repeat(np.eye(2), 2, axis=0) * 1000)  # [4, 2]
        ridge = ItemRidge(features, np.ones(4))
        item = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0], [3, 2, 1]])
        similarity = np.array([[1, 0.8, 0.2], [1, 0.6, 0], [1, 0.5, 0.1], [1, 0.5, 0.1]])
        items, similarities = _similar(ridge, features[[0]], item, similarity)
        assert items.shape == (5, 4)
        assert (items[:4, :3] == item).all()
        # W = (1/2, 1/2, 0, 0): row j of S W^T
        assert items[:4, 3].tolist() == [4, 4, 4, 4]
        assert similarities[:4, 3] == pytest.approx([0.9, 0.8, 0.05, 0.05], abs=1e-3)
        # W S = (0.8, 0.9, 0.1, 0), and itself W S W^T = 0.85
        assert items[4, :3].tolist() == [1, 4, 0]
        assert similarities[4] == pytest.approx([0.9, 0.85, 0.8, 0.1], abs=1e-3)


def test_features_of_an_item_of_the_log_need_not_be_there():
    items = ITEMS[ITEMS["item_id"] != "i3"]
    with pytest.warns(UserWarning, match="1 of 22 items has no title, such as 'i3'"):
        fitted = fitted_model("emorec-graph", items=items)
    assert isinstance(fitted._items.features, ItemFeatures)
    assert isinstance(fitted._items.features.items, Vocabulary)
    assert not fitted._items.features.matrix[LOG.items.indices(["i3"])[0]].nnz
