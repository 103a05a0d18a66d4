from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from emorec.training.item_ridge import ItemRidge


def random_features(num_items, num_features, seed=0):
    return sparse.random(
        num_items, num_features, 0.3, format="csr", random_state=np.random.default_rng(seed)
    )


class TestItemRidge:
    def test_recovers_a_planted_linear_relation(self):
        features = random_features(200, 10)
        planted = np.random.default_rng(1).normal(size=(10, 3))
        values = 2 + features @ planted
        ridge = ItemRidge(features[:150], np.ones(150), penalty=1e-6)
        assert ridge.predict(features[150:], values[:150]) == pytest.approx(values[150:], abs=1e-4)

    def test_values_by_least_squares(self):
        # The minimum as NumPy finds it: rows scaled by sqrt(w), and rows of the penalty.
        features, rng = random_features(30, 5), np.random.default_rng(2)
        weight, values = rng.integers(1, 9, 30).astype(float), rng.normal(size=(30, 2))
        w = weight / weight.mean()
        x = features.toarray() - np.average(features.toarray(), axis=0, weights=w)
        mean = np.average(values, axis=0, weights=w)
        rows = np.vstack([np.sqrt(w)[:, None] * x, np.sqrt(3.0) * np.eye(5)])
        right = np.vstack([np.sqrt(w)[:, None] * (values - mean), np.zeros((5, 2))])
        expected = mean + x @ np.linalg.lstsq(rows, right, rcond=None)[0]
        ridge = ItemRidge(features, weight, penalty=3.0)
        assert ridge.predict(features, values) == pytest.approx(expected)
        assert ridge.weights(features) @ values == pytest.approx(expected)
        assert ridge.weights(features).sum(axis=1) == pytest.approx(1)

    def test_items_without_features_have_the_mean(self):
        features, weight = random_features(30, 5), np.arange(1.0, 31)
        values = np.random.default_rng(3).normal(size=(30, 2))
        centred = sparse.csr_matrix(features - features.mean(axis=0))
        ridge = ItemRidge(centred, np.ones(30))
        nothing = sparse.csr_matrix((1, 5))
        assert ridge.predict(nothing, values)[0] == pytest.approx(values.mean(axis=0))
        ridge = ItemRidge(sparse.csr_matrix((30, 5)), weight)  # no item has a feature
        expected = np.average(values, axis=0, weights=weight)
        assert ridge.predict(nothing, values)[0] == pytest.approx(expected)
        assert ridge.weights(nothing) @ values == pytest.approx(expected[None])

    def test_stretch(self):
        features, values = random_features(30, 5), np.random.default_rng(4).normal(size=(30, 2))
        ridge = ItemRidge(features, np.ones(30))
        once, twice = (ridge.stretched(features, values, each) for each in (1.0, 2.0))
        assert once == pytest.approx(ridge.predict(features, values))
        assert twice - values.mean(axis=0) == pytest.approx(2 * (once - values.mean(axis=0)))

    def test_items_of_weight_0_have_no_part(self):
        features, values = random_features(20, 5), np.random.default_rng(5).normal(size=(20, 2))
        weight = np.r_[np.ones(10), np.zeros(10)]
        other = np.where(weight[:, None] > 0, values, 99.0)
        ridge = ItemRidge(features, weight)
        assert ridge.predict(features, values) == pytest.approx(ridge.predict(features, other))
