import math

import numpy as np
import pytest
import torch

from emorec.baselines import ItemPrior, MostPop, Random
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


# Four users: {0, 1}, {0, 1}, {0, 2}, {1}; item 3 has nobody.
SMALL = log([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 2), (3, 1)], 4, 4)


class TestMostPop:
    def test_counts(self):
        scores = MostPop().fit(SMALL)(torch.tensor([0, 3]))
        assert scores.tolist() == [[3, 3, 1, 0], [3, 3, 1, 0]]
        assert scores.dtype == torch.float32

    def test_repeats_of_a_pair_count_each_time(self):
        assert MostPop().fit(log([(0, 1), (0, 1), (0, 0)], 1, 2))(torch.tensor([0])).tolist() == [
            [1, 2]
        ]


class TestItemPrior:
    # Item 0: positive, positive, negative. Item 1: negative. Item 2: nobody. 2 of 4 are positive.
    LOG = small_log([(0, 0, 0, 0), (1, 0, 1, 0), (2, 0, 2, 0), (0, 1, 3, 0)], 3, 3)

    def test_counts(self):
        scores = ItemPrior(few=2).fit(self.LOG)(torch.tensor([0, 2]))
        expected = [(2 + 2 * 0.5) / (3 + 2), (0 + 2 * 0.5) / (1 + 2), 0.5]
        torch.testing.assert_close(scores, torch.tensor([expected, expected]))

    def test_without_any_smoothing(self):
        scores = ItemPrior(few=0).fit(self.LOG)(torch.tensor([1]))
        torch.testing.assert_close(scores, torch.tensor([[2 / 3, 0.0, 0.5]]))

    def test_of_an_empty_log_nothing_is_known(self):
        assert ItemPrior().fit(log([], 1, 2))(torch.tensor([0])).tolist() == [[0.5, 0.5]]

    @pytest.mark.parametrize("few", [-1, math.nan])
    def test_wrong_input_is_refused(self, few):
        with pytest.raises(ValueError, match=f"few must be at least 0, got {few}"):
            ItemPrior(few)


class TestRandom:
    def test_uniform(self):
        scores = Random(0).fit(log([], 100, 200))(torch.arange(100))
        assert scores.shape == (100, 200)
        assert scores.dtype == torch.float32
        assert 0 <= scores.min() and scores.max() < 1
        # 20,000 draws: the mean of a uniform has standard error 0.289 / sqrt(20000) = 0.002.
        assert abs(scores.mean() - 0.5) < 0.01
        assert abs(scores.var() - 1 / 12) < 0.005
        assert len(scores.unique()) > 19_900

    def test_depends_on_seed_and_user_alone(self):
        data = log([], 5, 50)
        alone = Random(1).fit(data)(torch.tensor([3]))
        together = Random(1).fit(data)(torch.tensor([4, 3]))
        assert torch.equal(alone[0], together[1])
        assert not torch.equal(together[0], together[1])
        assert not torch.equal(alone, Random(2).fit(data)(torch.tensor([3])))

    def test_lists_are_at_chance(self):
        # 3,000 users, 1 of 30 items wanted, lists of 3: expected hit rate 0.1, error 0.0055.
        data = log([], 3000, 30)
        top = recommend_top_k(Random(7).fit(data), torch.arange(3000), data, 3)
        rate = (top.items == 17).any(dim=1).double().mean()
        assert abs(rate - 0.1) < 0.025
