import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emorec.baselines import ItemKNN, MostPop
from emorec.data.datasets import load_dataset
from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.splits import split_interactions
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation import scores as score_chunks
from emorec.evaluation.top_k import (
    Evaluation,
    TopK,
    evaluate,
    excluded_items,
    recommend_top_k,
    seen_matrix,
)

LOVE, LIKE, SKIP, HATE = Feedback


def log(rows, num_users, num_items):
    """Interactions from (user, item, feedback, time)."""
    user, item, feedback, time = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Interactions(
        user, item, feedback, time, Vocabulary(range(num_users)), Vocabulary(range(num_items))
    )


def seen(pairs, num_users, num_items):
    return log([(user, item, LIKE, 0) for user, item in pairs], num_users, num_items)


def table(scores):
    scores = torch.as_tensor(scores)
    return lambda users: scores[users]


class TableInBlocks:
    """A table of scores, block by block."""

    def __init__(self, scores):
        self.scores, self.sizes = torch.as_tensor(scores), []

    def __call__(self, users):
        return self.scores[users]

    def in_blocks(self, users, size):
        for block in self.scores[users].split(size, dim=1):
            self.sizes.append(tuple(block.shape))
            yield block


class TestRecommendTopK:
    @pytest.mark.parametrize("in_blocks", [False, True])
    def test_lists_of_an_empty_catalogue_are_empty(self, in_blocks):
        scores = torch.zeros(2, 0)
        scorer = TableInBlocks(scores) if in_blocks else table(scores)
        top = recommend_top_k(scorer, torch.tensor([0, 1]), seen([], 2, 0), 3)
        assert top.items.tolist() == [[-1] * 3] * 2
        assert top.scores.tolist() == [[-torch.inf] * 3] * 2

    def test_best_first_without_seen_items(self):
        scores = table([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
        top = recommend_top_k(scores, torch.tensor([0, 1]), seen([(0, 1), (1, 2)], 2, 4), 2)
        assert top.items.tolist() == [[3, 2], [0, 1]]
        assert top.items.dtype == torch.int64
        torch.testing.assert_close(top.scores, torch.tensor([[0.7, 0.5], [0.4, 0.3]]))

    def test_masks_before_the_best_are_taken(self):
        # The three best items are seen; masking after the fact would leave an empty list.
        top = recommend_top_k(
            table([[9.0, 8.0, 7.0, 1.0, 2.0]]), [0], seen([(0, 0), (0, 1), (0, 2)], 1, 5), 2
        )
        assert top.items.tolist() == [[4, 3]]

    def test_negative_feedback_counts_as_seen(self):
        top = recommend_top_k(table([[2.0, 1.0]]), [0], log([(0, 0, HATE, 0)], 1, 2), 1)
        assert top.items.tolist() == [[1]]

    def test_negative_scores_are_ranked_too(self):
        top = recommend_top_k(table([[-3.0, -1.0, -2.0]]), [0], seen([], 1, 3), 3)
        assert top.items.tolist() == [[1, 2, 0]]

    def test_ties_go_to_the_lower_index(self):
        tied = table([[1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 0.0]])
        nothing = seen([], 1, 7)
        assert recommend_top_k(tied, [0], nothing, 2).items.tolist() == [[1, 3]]
        assert recommend_top_k(tied, [0], nothing, 4).items.tolist() == [[1, 3, 5, 0]]
        assert recommend_top_k(tied, [0], nothing, 7).items.tolist() == [[1, 3, 5, 0, 2, 4, 6]]

    @pytest.mark.parametrize("num_items", [11, 5_000])
    def test_equal_scores_everywhere(self, num_items):
        top = recommend_top_k(
            table(torch.zeros(1, num_items)), [0], seen([(0, 0), (0, 4)], 1, num_items), 5
        )
        assert top.items.tolist() == [[1, 2, 3, 5, 6]]

    def test_zero_ties_with_minus_zero(self):
        top = recommend_top_k(table([[-0.0, 0.0, -0.0, 0.0]]), [0], seen([], 1, 4), 3)
        assert top.items.tolist() == [[0, 1, 2]]

    def test_candidates(self):
        candidates = torch.tensor([False, True, False, True])
        top = recommend_top_k(
            table([[9.0, 1.0, 8.0, 2.0]]), [0], seen([], 1, 4), 2, candidates=candidates
        )
        assert top.items.tolist() == [[3, 1]]

    def test_candidates_of_each_user(self):
        allowed = torch.tensor([[True, False, True], [False, False, False], [False, True, True]])
        asked = []
        for chunk_size in (1, 2, None):
            top = recommend_top_k(
                table([[3.0, 2.0, 1.0]] * 3),
                [2, 0, 1],
                seen([(0, 0)], 3, 3),
                2,
                lambda some: asked.append(some) or allowed[[2, 0, 1]][some],
                chunk_size,
            )
            assert top.items.tolist() == [[1, 2], [2, -1], [-1, -1]]
        assert [each.stop - each.start for each in asked] == [1, 1, 1, 2, 1, 3]
        with pytest.raises(ValueError, match=r"candidates must be bool \[2, 3\], got .* \[3, 3\]"):
            recommend_top_k(table(torch.ones(3, 3)), [0, 1], seen([], 3, 3), 2, lambda _: allowed)

    @settings(deadline=None)
    @given(st.data())
    def test_blocks_give_the_lists_of_the_whole(self, data):
        users, items = data.draw(st.integers(1, 5)), data.draw(st.integers(4, 12))
        rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
        scores = rng.integers(0, 4, (users, items)).astype(np.float32)  # ties across blocks
        known = seen(np.argwhere(rng.random((users, items)) < 0.3).tolist(), users, items)
        allowed = data.draw(st.sampled_from([None, "all users", "each user"]))
        candidates = None
        if allowed == "all users":
            candidates = rng.random(items) < 0.7
        elif allowed == "each user":
            each = torch.from_numpy(rng.random((users, items)) < 0.7)
            candidates = each.__getitem__
        k, asked = data.draw(st.integers(1, 14)), np.arange(users)
        expected = recommend_top_k(table(scores), asked, known, k, candidates)
        in_blocks = TableInBlocks(scores)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(score_chunks, "_ITEMS_OF_A_BLOCK", 3)
            found = recommend_top_k(in_blocks, asked, known, k, candidates)
        assert len(in_blocks.sizes) == -(-items // 3)
        assert torch.equal(found.items, expected.items)
        assert torch.equal(found.scores, expected.scores)

    def test_blocks_are_checked(self, monkeypatch):
        monkeypatch.setattr(score_chunks, "_ITEMS_OF_A_BLOCK", 2)
        wrong = TableInBlocks([[1.0, 2.0, 3.0, math.nan, 5.0]])
        with pytest.raises(ValueError, match="user 0, item 3: the score is nan"):
            recommend_top_k(wrong, [0], seen([], 1, 5), 2)
        wrong.in_blocks = lambda users, size: [torch.zeros(1, 2), torch.zeros(1, 3)]
        with pytest.raises(ValueError, match=r"float \[1, 2\], got torch.float32 \[1, 3\]"):
            recommend_top_k(wrong, [0], seen([], 1, 5), 2)

    def test_says_how_many_users_are_done(self):
        done = []
        recommend_top_k(table(torch.eye(5)), [4, 0, 2], seen([], 5, 5), 1, None, 2, done.append)
        assert done == [2, 1]

    def test_fewer_candidates_than_k(self):
        top = recommend_top_k(
            table([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]),
            [0, 1],
            seen([(0, 2), (1, 0), (1, 1)], 2, 3),
            5,
            candidates=np.array([True, True, False]),
        )
        assert top.items.tolist() == [[1, 0, -1, -1, -1], [-1] * 5]
        assert top.scores[0].tolist() == [2.0, 1.0] + [-math.inf] * 3

    def test_users_in_any_order_and_no_users(self):
        scores = table(torch.eye(3))
        nothing = seen([], 3, 3)
        assert recommend_top_k(scores, [2, 0], nothing, 1).items.tolist() == [[2], [0]]
        none = recommend_top_k(scores, torch.zeros(0, dtype=torch.int64), nothing, 2)
        assert none.items.shape == (0, 2)

    def test_the_scorers_own_memory_is_left_alone(self):
        scores = torch.tensor([[1.0, 2.0]])
        recommend_top_k(lambda users: scores, [0], seen([(0, 1)], 1, 2), 1)
        assert scores.tolist() == [[1.0, 2.0]]

    def test_the_scorer_runs_without_gradients(self):
        weight = torch.ones(1, 2, requires_grad=True)
        made = []

        def scorer(users):
            made.append(weight * 2)
            return made[-1]

        assert not recommend_top_k(scorer, [0], seen([], 1, 2), 1).scores.requires_grad
        assert not made[0].requires_grad

    def test_scores_on_any_device(self, device):
        scores = torch.tensor([[1.0, 3.0, 3.0, 2.0]], device=device)
        top = recommend_top_k(
            lambda users: scores,
            [0],
            seen([(0, 1)], 1, 4),
            3,
            candidates=torch.tensor([True, True, True, False]),
        )
        assert top.items.tolist() == [[2, 0, -1]]
        assert top.items.device.type == "cpu"

    def test_ranks_in_the_scorers_precision(self):
        # 1 + 2^-40 and 1 are the same in float32.
        scores = table(torch.tensor([[1.0, 1.0 + 2.0**-40]], dtype=torch.float64))
        top = recommend_top_k(scores, [0], seen([], 1, 2), 2)
        assert top.items.tolist() == [[1, 0]]
        assert top.scores.dtype == torch.float32

    def test_takes_a_prebuilt_matrix(self):
        interactions = seen([(0, 1), (0, 1), (1, 0)], 2, 3)
        matrix = seen_matrix(interactions)
        assert matrix.toarray().tolist() == [[0, 1, 0], [1, 0, 0]]
        scores = table([[1.0, 2.0, 0.0], [1.0, 0.5, 0.0]])
        assert recommend_top_k(scores, [0, 1], matrix, 2).items.tolist() == [[0, 2], [1, 2]]

    def test_what_lists_may_not_hold(self):
        interactions = seen([(0, 1), (1, 0), (1, 2)], 2, 3)
        assert excluded_items(interactions, "exclude").toarray().tolist() == [[0, 1, 0], [1, 0, 1]]
        assert excluded_items(interactions, "include").toarray().tolist() == [[0] * 3] * 2

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_scores_that_are_not_finite_raise(self, bad):
        with pytest.raises(ValueError, match=r"user 1, item 2: the score is .*must be finite"):
            recommend_top_k(
                table([[0.0, 0.0, 0.0], [0.0, 0.0, bad]]), [0, 1], seen([(1, 2)], 2, 3), 1
            )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"k": 0}, "k must be at least 1, got 0"),
            ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
            ({"users": [0, 2]}, r"user 2 is out of range, must be in 0 \.\. 1"),
            ({"users": [-1]}, "user -1 is out of range"),
            ({"users": [0.5]}, "users must be integer"),
            ({"candidates": torch.ones(3)}, r"candidates must be bool \[3\], got torch.float32"),
            ({"candidates": torch.ones(2, dtype=torch.bool)}, r"bool \[3\], got torch.bool \[2\]"),
            ({"scorer": table(torch.zeros(2, 4))}, r"must return float \[2, 3\], got .*\[2, 4\]"),
            ({"scorer": table(torch.zeros(2, 3, dtype=torch.int64))}, "got torch.int64"),
        ],
    )
    def test_wrong_input_is_refused(self, change, message):
        arguments = {
            "scorer": table(torch.zeros(2, 3)),
            "users": [0, 1],
            "seen": seen([], 2, 3),
            "k": 1,
        }
        with pytest.raises(ValueError, match=message):
            recommend_top_k(**{**arguments, **change})

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9), st.integers(1, 4))
    def test_against_brute_force_in_any_chunks(self, seed, num_items, k, levels):
        rng = np.random.default_rng(seed)
        num_users = 7
        scores = rng.integers(0, levels, (num_users, num_items)).astype(np.float32)  # many ties
        is_seen = rng.random((num_users, num_items)) < 0.3
        candidates = rng.random(num_items) < 0.8
        users = rng.permutation(num_users)[:5]
        expected = np.full((5, k), -1)
        for row, user in enumerate(users):
            allowed = np.flatnonzero(candidates & ~is_seen[user])
            best = sorted(allowed, key=lambda item: (-scores[user, item], item))[:k]
            expected[row, : len(best)] = best
        history = seen(np.argwhere(is_seen).tolist(), num_users, num_items)
        for chunk_size in (None, 1, 2, 5):
            top = recommend_top_k(table(scores), users, history, k, candidates, chunk_size)
            assert top.items.tolist() == expected.tolist()


def lists(items):
    items = torch.tensor(items)
    return TopK(items, torch.zeros(items.shape))


class TestEvaluate:
    def test_one_number_to_choose_by(self):
        frame = pd.DataFrame({"ndcg_any": [0.2, 0.4], "ndcg_likes": [1.0, math.nan]})
        found = Evaluation(10, frame)
        assert found.score("ndcg") == pytest.approx(0.3)
        assert found.score("ndcg_likes") == 1
        assert found.score("ndcg_mean") == pytest.approx(0.65)
        nothing = Evaluation(10, frame.assign(ndcg_likes=math.nan))
        assert math.isnan(nothing.score("ndcg_likes"))
        assert nothing.score("ndcg_mean") == pytest.approx(0.15)

    def test_hand_worked(self):
        test = log(
            [
                (0, 1, LOVE, 1),
                (0, 2, HATE, 2),
                (0, 3, LIKE, 3),
                (1, 0, SKIP, 1),
                (1, 4, HATE, 2),
                (2, 4, LIKE, 1),
            ],
            num_users=4,
            num_items=5,
        )
        # User 0 hits a dislike, then a like; user 1 hits a dislike; user 2 misses; 3 has no test.
        top = lists([[2, 0, 3], [1, 4, 2], [0, 1, -1], [0, 1, 2]])
        result = evaluate(top, torch.arange(4), test, 3)
        second = 1 / math.log2(3)
        ideal = 1 + second + 0.5
        expected = {
            "recall_any": [2 / 3, 1 / 2, 0, math.nan],
            "precision_any": [2 / 3, 1 / 3, 0, math.nan],
            "hit_rate_any": [1, 1, 0, math.nan],
            "mrr_any": [1, 1 / 2, 0, math.nan],
            "map_any": [(1 + 2 / 3) / 3, (1 / 2) / 2, 0, math.nan],
            "ndcg_any": [1.5 / ideal, second / ideal, 0, math.nan],
            "recall_likes": [1 / 2, math.nan, 0, math.nan],
            "map_likes": [(1 / 3) / 2, math.nan, 0, math.nan],
            "ndcg_likes": [0.5 / ideal, math.nan, 0, math.nan],
            "mrr_likes": [1 / 3, math.nan, 0, math.nan],
            "precision_likes": [1 / 3, math.nan, 0, math.nan],
            "hit_rate_likes": [1, math.nan, 0, math.nan],
            "recall_dislikes": [1, 1 / 2, math.nan, math.nan],
            "ndcg_dislikes": [1 / ideal, second / ideal, math.nan, math.nan],
            "delta_recall": [1 / 2 - 1, math.nan, math.nan, math.nan],
            "delta_ndcg": [(0.5 - 1) / ideal, math.nan, math.nan, math.nan],
            "dislike_rate": [1 / 3, 1 / 3, 0, math.nan],
            # Losses 3 and 1: user 0 has its one dislike on top, user 1 could have had both.
            "ndcl": [1, 3 * second / (3 + second), math.nan, math.nan],
            # (DCG - worst) / (best - worst): (-2.5 + 3) / (3 + second + 3) for user 0.
            "signed_ndcg": [0.5 / (6 + second), (3 - 2 * second) / (3 + second), 0, math.nan],
            "hits_any": [2, 1, 0, 0],
            "hits_likes": [1, 0, 0, 0],
            "hits_dislikes": [1, 1, 0, 0],
        }
        assert set(result.per_user.columns) == set(expected)
        assert result.per_user.index.tolist() == [0, 1, 2, 3]
        for column, values in expected.items():
            assert result.per_user[column].dtype == np.float64
            np.testing.assert_allclose(result.per_user[column], values, rtol=1e-12, err_msg=column)

        summary = result.summary()
        assert summary["recall_any"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
        assert summary["recall_likes"] == pytest.approx((1 / 2 + 0) / 2)
        assert summary["recall_dislikes"] == pytest.approx((1 + 1 / 2) / 2)
        assert summary["disliked_share"] == pytest.approx(2 / 3)
        assert (summary["hits_any"], summary["hits_likes"], summary["hits_dislikes"]) == (3, 1, 2)
        assert summary["num_users"] == 4
        assert summary["left_out_any"] == 1
        assert summary["left_out_likes"] == 2
        assert summary["left_out_dislikes"] == 2
        assert summary["left_out_both"] == 3
        assert summary["dislike_rate"] == pytest.approx((1 / 3 + 1 / 3 + 0) / 3)

    def test_the_share_is_pooled_not_a_mean_of_shares(self):
        # User 0: 1 disliked of 1 hit; user 1: 0 of 3. Pooled 1/4, the mean of shares would be 1/2.
        rows = [(0, 0, HATE, 0), (1, 0, LIKE, 0), (1, 1, LIKE, 0), (1, 2, LIKE, 0)]
        result = evaluate(lists([[0, 1, 2], [0, 1, 2]]), [0, 1], log(rows, 2, 3), 3)
        assert result.summary()["disliked_share"] == 0.25

    def test_without_any_hit_the_share_is_nan(self):
        result = evaluate(lists([[1, 2]]), [0], log([(0, 0, LIKE, 0)], 1, 3), 2)
        assert math.isnan(result.summary()["disliked_share"])
        assert result.summary()["recall_any"] == 0

    def test_an_empty_hold_out_is_nan_throughout(self):
        summary = evaluate(lists([[1, 2]]), [0], log([], 1, 3), 2).summary()
        assert math.isnan(summary["recall_any"])
        assert summary["left_out_any"] == 1

    def test_a_repeated_pair_counts_once_with_its_last_feedback(self):
        # In log order LIKE comes last, in time HATE does: time decides.
        test = log([(0, 0, HATE, 9), (0, 0, LIKE, 5), (0, 1, LIKE, 1)], 1, 3)
        result = evaluate(lists([[0, 2]]), [0], test, 2).per_user.loc[0]
        assert result["recall_any"] == 1 / 2
        assert result["hits_dislikes"] == 1
        assert result["recall_likes"] == 0

    def test_at_equal_times_the_later_row_is_the_last_event(self):
        test = log([(0, 0, HATE, 5), (0, 0, LIKE, 5)], 1, 2)
        assert evaluate(lists([[0]]), [0], test, 1).per_user.loc[0, "hits_likes"] == 1

    def test_an_empty_place_is_nobodys_item(self):
        # As a key, item -1 of user 1 would be the last item of user 0.
        test = log([(0, 2, LIKE, 0), (1, 0, LIKE, 0)], 2, 3)
        result = evaluate(lists([[0, -1], [1, -1]]), [0, 1], test, 2)
        assert result.per_user["hits_any"].tolist() == [0, 0]

    def test_only_the_first_k_count(self):
        test = log([(0, 2, LIKE, 0)], 1, 3)
        top = lists([[0, 1, 2]])
        assert evaluate(top, [0], test, 2).per_user.loc[0, "recall_any"] == 0
        assert evaluate(top, [0], test, 3).per_user.loc[0, "recall_any"] == 1

    def test_some_users_in_another_order(self):
        test = log([(0, 0, LIKE, 0), (1, 1, LIKE, 0), (2, 2, LIKE, 0)], 3, 3)
        result = evaluate(lists([[2], [1]]), [2, 0], test, 1)
        assert result.per_user["recall_any"].to_dict() == {2: 1.0, 0: 0.0}

    @pytest.mark.parametrize(
        ("items", "users", "k", "message"),
        [
            ([[0], [1]], [1, 1], 1, "distinct"),
            ([[0]], [0, 1], 1, "got 1 lists for 2 users"),
            ([[0, 1]], [0], 3, r"k must be in 1 \.\. 2 .*got 3"),
            ([[0, 1]], [0], 0, "got 0"),
            ([[0, 0]], [0], 2, "list 0 holds an item twice"),
            ([[0, 1, 1]], [0], 3, "list 0 holds an item twice"),
            ([[0, 99]], [0], 2, "a list holds item 99, must be in"),
            ([[-1, -2]], [0], 2, "a list holds item -2, must be in"),
            ([[0, 3]], [0], 2, r"item 3, must be in 0 \.\. 2"),
            ([[0]], [5], 1, "user 5 is out of range"),
        ],
    )
    def test_wrong_input_is_refused(self, items, users, k, message):
        with pytest.raises(ValueError, match=message):
            evaluate(lists(items), users, log([(0, 0, LIKE, 0)], 2, 3), k)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_against_sets(self, seed):
        rng = np.random.default_rng(seed)
        rows = [
            (rng.integers(5), rng.integers(8), rng.integers(4), rng.integers(3)) for _ in range(40)
        ]
        top = np.stack([rng.permutation(8)[:4] for _ in range(5)])
        result = evaluate(lists(top.tolist()), np.arange(5), log(rows, 5, 8), 4)
        for user in range(5):
            last = {}
            for _, item, kind, _ in sorted((r for r in rows if r[0] == user), key=lambda r: r[3]):
                last[item] = kind
            likes = {item for item, kind in last.items() if kind <= LIKE}
            row = result.per_user.loc[user]
            assert row["hits_any"] == len(set(top[user]) & set(last))
            assert row["hits_likes"] == len(set(top[user]) & likes)
            assert row["hits_dislikes"] == len(set(top[user]) & (set(last) - likes))


@pytest.fixture(scope="module")
def movielens(real_data_dir):
    """ML-1M, the last 10 events of each user held out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a copy's checksum may differ
        log = load_dataset("ml-1m", real_data_dir, progress=False)
    return split_interactions(log, n=10)


# Recall, NDCG, MAP of any hold-out; recall and NDCG of likes; disliked share.
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (MostPop(), [0.0410, 0.0444, 0.0172, 0.0505, 0.0361, 0.217]),
        (ItemKNN(100), [0.0621, 0.0669, 0.0266, 0.0763, 0.0514, 0.262]),
    ],
    ids=["MostPop", "ItemKNN"],
)
def test_movielens_reference(movielens, baseline, expected):
    train, test = movielens.history, movielens.test
    assert (len(train), len(test)) == (939_809, 60_394)
    users = np.unique(test.user)
    top = recommend_top_k(baseline.fit(train), users, train, 10)
    summary = evaluate(top, users, test, 10).summary()
    names = ["recall_any", "ndcg_any", "map_any", "recall_likes", "ndcg_likes"]
    measured = [round(summary[name], 4) for name in names] + [round(summary["disliked_share"], 3)]
    assert measured == expected
    assert summary["num_users"] == 6_040
    assert summary["left_out_any"] == 0
