import numpy as np
import pytest
import torch

from emorec.evaluation.scores import as_user_indices, scores_in_chunks, users_at_a_time


def test_each_user_is_scored_once_in_order():
    table = torch.arange(10.0).view(5, 2)
    users = np.array([4, 0, 3])
    found = list(scores_in_chunks(lambda batch: table[batch], users, 2, chunk_size=2))
    assert [chunk for chunk, _ in found] == [slice(0, 2), slice(2, 3)]
    assert [scores.tolist() for _, scores in found] == [[[8, 9], [0, 1]], [[6, 7]]]


def test_fewer_users_are_scored_at_a_time_where_there_are_many_items():
    sizes = {items: users_at_a_time(items) for items in (0, 1, 10**4, 2**15, 2**17, 10**7)}
    assert sizes == {0: 128, 1: 128, 10**4: 128, 2**15: 64, 2**17: 16, 10**7: 16}
    chunks = scores_in_chunks(lambda users: torch.zeros(len(users), 2**17), np.arange(18), 2**17)
    assert [chunk for chunk, _ in chunks] == [slice(0, 16), slice(16, 18)]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(wrong):
    scores = torch.tensor([[1.0, 2.0], [wrong, 3e38]])
    with pytest.raises(ValueError, match=f"user 7, item 0: the score is {wrong}, must be finite"):
        list(scores_in_chunks(lambda users: scores, np.array([5, 7]), 2))
    both = torch.tensor([[float("inf"), -float("inf")]])
    with pytest.raises(ValueError, match="user 5, item 0: the score is inf"):
        list(scores_in_chunks(lambda users: both, np.array([5]), 2))


def test_finite_scores_whose_sum_is_not_are_fine():
    ((_, found),) = scores_in_chunks(lambda users: torch.full((1, 3), 3e38), np.array([0]), 3)
    assert found.tolist() == torch.full((1, 3), 3e38).tolist()


def test_users_as_indices():
    assert as_user_indices(torch.tensor([2, 0], dtype=torch.int32), 3).dtype == np.int64
    assert as_user_indices([], 0).tolist() == []
    with pytest.raises(ValueError, match=r"integer \[U\], got int64 \[1, 1\]"):
        as_user_indices([[0]], 3)
    with pytest.raises(ValueError, match="user 3 is out of range"):
        as_user_indices([3], 3)
