import math

import numpy as np
import pytest
import torch

from emorec.baselines.item_models import EASE, ItemKNN, RidgeKNN
from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation.top_k import recommend_top_k
from tests.small import small_log


def log(pairs, num_users, num_items):
    user, item = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    kinds = np.arange(len(user)) % len(Feedback)  # feedback must not matter
    return Interactions(
        user, item, kinds, user * 0, Vocabulary(range(num_users)), Vocabulary(range(num_items))
    )


def checker_board(size=50):
    """User u has every item of its own parity but item u, which is what to recommend."""
    return log(
        [(u, i) for u in range(size) for i in range(size) if (u - i) % 2 == 0 and u != i],
        size,
        size,
    )


# Four users: {0, 1}, {0, 1}, {0, 2}, {1}; item 3 has nobody.
SMALL = log([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 2), (3, 1)], 4, 4)


class TestItemKNN:
    def test_cosines(self):
        # n_0 = 3, n_1 = 3, n_2 = 1; n_01 = 2, n_02 = 1, n_12 = 0.
        expected = [
            [1, 2 / 3, 1 / math.sqrt(3), 0],
            [2 / 3, 1, 0, 0],
            [1 / math.sqrt(3), 0, 1, 0],
            [0, 0, 0, 0],
        ]
        similarity = ItemKNN().fit(SMALL).similarity.toarray()
        np.testing.assert_allclose(similarity, expected, rtol=1e-6)

    def test_scores_sum_over_the_history(self):
        scores = ItemKNN().fit(SMALL)(torch.tensor([0, 2]))
        third = 1 / math.sqrt(3)
        expected = [[1 + 2 / 3, 1 + 2 / 3, third, 0], [1 + third, 2 / 3, 1 + third, 0]]
        torch.testing.assert_close(scores, torch.tensor(expected))

    def test_shrink(self):
        similarity = ItemKNN(shrink=2).fit(SMALL).similarity.toarray()
        assert similarity[0, 1] == pytest.approx(2 / (3 + 2))
        assert similarity[0, 2] == pytest.approx(1 / (math.sqrt(3) + 2))

    def test_keeps_the_nearest(self):
        similarity = ItemKNN(neighbours=2).fit(SMALL).similarity.toarray()
        assert np.count_nonzero(similarity[0]) == 2  # itself and item 1
        assert similarity[0, 2] == 0
        assert similarity[2, 0] == pytest.approx(1 / math.sqrt(3))  # kept by item 2

    def test_of_equally_similar_items_the_lower_index_stays(self):
        everyone = log([(u, i) for u in range(3) for i in range(4)], 3, 4)
        similarity = ItemKNN(neighbours=2).fit(everyone).similarity.toarray()
        assert np.flatnonzero(similarity[1]).tolist() == [0, 1]

    def test_repeats_do_not_count(self):
        twice = log([(0, 0), (0, 0), (0, 1), (1, 1)], 2, 2)
        assert ItemKNN().fit(twice).similarity[0, 1] == pytest.approx(1 / math.sqrt(2))

    def test_chunks_do_not_matter(self):
        rng = np.random.default_rng(0)
        data = log(np.stack([rng.integers(30, size=300), rng.integers(23, size=300)], 1), 30, 23)
        whole = ItemKNN(5, chunk_size=100).fit(data).similarity.toarray()
        for chunk_size in (1, 7, 23):
            parts = ItemKNN(5, chunk_size=chunk_size).fit(data).similarity.toarray()
            np.testing.assert_array_equal(parts, whole)

    def test_checker_board(self):
        board = checker_board()
        top = recommend_top_k(ItemKNN().fit(board), torch.arange(50), board, 1)
        assert top.items[:, 0].tolist() == list(range(50))

    def test_an_empty_log(self):
        model = ItemKNN().fit(log([], 2, 3))
        assert model(torch.tensor([1])).tolist() == [[0, 0, 0]]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"neighbours": 1}, "neighbours must be at least 2.*got 1"),
            ({"shrink": -1.0}, "shrink must not be negative, got -1.0"),
            ({"shrink": math.nan}, "shrink must not be negative, got nan"),
            ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
            ({"recency": 0.0}, "recency must be positive or None, got 0.0"),
        ],
    )
    def test_wrong_options_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            ItemKNN(**options)


class TestRidgeKNN:
    def test_two_items(self):
        # As with EASE: 2 / 5 and 2 / 4.
        data = log([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)], 3, 2)
        model = RidgeKNN(1, 2.0).fit(data)
        np.testing.assert_allclose(model.weights.toarray(), [[0, 0.4], [0.5, 0]], rtol=1e-6)
        torch.testing.assert_close(model(torch.tensor([2])), torch.tensor([[0, 0.4]]))

    def test_all_items_as_neighbours_are_ease(self):
        matrix = np.random.default_rng(0).random((60, 12)) < 0.5
        assert ((matrix.T.astype(int) @ matrix) > 0).all()  # neighbours share a user
        data = log(np.argwhere(matrix), 60, 12)
        found = RidgeKNN(11, 3.0).fit(data).weights.toarray()
        np.testing.assert_allclose(found, EASE(3.0).fit(data).weights, atol=1e-6)

    def test_an_item_is_regressed_on_its_neighbours(self):
        matrix = np.random.default_rng(0).random((40, 12)) < 0.3
        data = log(np.argwhere(matrix), 40, 12)
        near = ItemKNN(5).fit(data).similarity.toarray()
        model = RidgeKNN(4, 3.0).fit(data)
        for item in range(12):
            others = np.flatnonzero((near[item] > 0) & (np.arange(12) != item))
            assert len(others) == 4
            seen = matrix[:, others].astype(float)
            expected = np.zeros(12)
            expected[others] = np.linalg.solve(
                seen.T @ seen + 3 * np.eye(4), seen.T @ matrix[:, item].astype(float)
            )
            np.testing.assert_allclose(model.weights[:, item].toarray()[:, 0], expected, atol=1e-6)

    def test_an_item_of_nobody_has_no_weight(self):
        weights = RidgeKNN().fit(SMALL).weights.toarray()
        assert not weights[3].any() and not weights[:, 3].any()

    def test_an_empty_log(self):
        assert RidgeKNN().fit(log([], 2, 3))(torch.tensor([1])).tolist() == [[0, 0, 0]]
        none = torch.tensor([], dtype=torch.int64)
        assert RidgeKNN().fit(log([], 0, 0))(none).shape == (0, 0)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"neighbours": 0}, "neighbours must be at least 1, got 0"),
            ({"regularization": 0.0}, "regularization must be positive and finite, got 0.0"),
            ({"recency": -1.0}, "recency must be positive or None, got -1.0"),
        ],
    )
    def test_wrong_options_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            RidgeKNN(**options)


class TestEASE:
    def test_two_items(self):
        # Three users have item 0, two of them item 1 too. Alone, item 0 explains item 1 best with
        # w = n_01 / (n_0 + lambda) = 2 / 5, and item 1 item 0 with 2 / 4.
        data = log([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)], 3, 2)
        model = EASE(2.0).fit(data)
        np.testing.assert_allclose(model.weights, [[0, 0.4], [0.5, 0]], rtol=1e-6)
        scores = model(torch.tensor([2, 0]))
        torch.testing.assert_close(scores, torch.tensor([[0, 0.4], [0.5, 0.4]]))

    def test_each_item_is_regressed_on_the_others(self):
        rng = np.random.default_rng(0)
        matrix = rng.random((40, 12)) < 0.3
        model = EASE(3.0).fit(log(np.argwhere(matrix), 40, 12))
        for item in range(12):
            others = np.arange(12) != item
            seen = matrix[:, others].astype(float)
            expected = np.linalg.solve(
                seen.T @ seen + 3 * np.eye(11), seen.T @ matrix[:, item].astype(float)
            )
            np.testing.assert_allclose(model.weights[others, item], expected, atol=1e-6)
            assert model.weights[item, item] == 0

    def test_an_item_of_nobody_has_no_weight(self):
        model = EASE(1.0).fit(SMALL)
        assert not model.weights[3].any() and not model.weights[:, 3].any()

    def test_checker_board(self):
        board = checker_board()
        top = recommend_top_k(EASE(1.0).fit(board), torch.arange(50), board, 1)
        assert top.items[:, 0].tolist() == list(range(50))

    def test_an_empty_log(self):
        assert EASE().fit(log([], 2, 3))(torch.tensor([1])).tolist() == [[0, 0, 0]]
        assert EASE().fit(log([], 0, 0))(torch.tensor([], dtype=torch.int64)).shape == (0, 0)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"regularization": 0.0}, "regularization must be positive and finite, got 0.0"),
            ({"regularization": math.inf}, "regularization must be positive and finite, got inf"),
            ({"recency": -1.0}, "recency must be positive or None, got -1.0"),
            ({"recency": math.nan}, "recency must be positive or None, got nan"),
        ],
    )
    def test_wrong_options_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            EASE(**options)

    def test_too_little_regularization_is_named(self):
        twins = log([(0, 0), (0, 1)], 1, 2)
        with pytest.raises(ValueError, match="regularization is too small"):
            EASE(1e-30).fit(twins)


LIKE, DISLIKE = Feedback.EXPLICIT_POSITIVE, Feedback.EXPLICIT_NEGATIVE
HALVES = 1 / math.log(2)  # exp(-age / HALVES) = 2 ** -age
# User 0, oldest first: likes 0, dislikes 1, likes 0 again, likes 2, dislikes 3. User 1 likes 3.
# The log is in another order.
TOLD = small_log(
    [
        (1, 3, LIKE, 5),
        (0, 3, DISLIKE, 50),
        (0, 0, LIKE, 10),
        (0, 2, LIKE, 40),
        (0, 1, DISLIKE, 20),
        (0, 0, LIKE, 30),
    ],
    2,
    4,
)


@pytest.mark.parametrize("model", [ItemKNN, EASE])
class TestQueries:
    def test_all_of_the_history_counts_alike(self, model):
        query = model().fit(TOLD).query
        assert query.toarray().tolist() == [[1, 1, 1, 1], [0, 0, 0, 1]]

    def test_recency(self, model):
        query = model(recency=HALVES).fit(TOLD).query.toarray()
        np.testing.assert_allclose(query, [[1 / 4, 1 / 8, 1 / 2, 1], [0, 0, 0, 1]], rtol=1e-6)

    def test_likes_keep_their_age(self, model):
        query = model(recency=HALVES, query_likes=True).fit(TOLD).query.toarray()
        np.testing.assert_allclose(query, [[1 / 4, 0, 1 / 2, 0], [0, 0, 0, 1]], rtol=1e-6)

    def test_equal_times_keep_the_order_of_the_log(self, model):
        data = small_log([(0, 1, LIKE, 7), (0, 0, LIKE, 7)], 1, 2)
        query = model(recency=HALVES).fit(data).query.toarray()
        np.testing.assert_allclose(query, [[1, 1 / 2]], rtol=1e-6)

    def test_training_on_likes_leaves_the_query_alone(self, model):
        trained = model(train_on_likes=True).fit(TOLD)
        weights = trained.similarity.toarray() if model is ItemKNN else trained.weights
        liked = model().fit(TOLD.select(TOLD.is_positive))
        expected = liked.similarity.toarray() if model is ItemKNN else liked.weights
        np.testing.assert_array_equal(weights, expected)
        assert trained.query.toarray().tolist() == [[1, 1, 1, 1], [0, 0, 0, 1]]
