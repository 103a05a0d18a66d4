import numpy as np
import pytest
import torch

from emorec.evaluation.scores import as_user_indices, scores_in_chunks


def test_each_user_is_scored_once_in_order():
    table = torch.arange(10.0).view(5, 2)
    users = np.array([4, 0, 3])
    found = list(scores_in_chunks(lambda batch: table[batch], users, 2, chunk_size=2))
    assert [chunk for chunk, _ in found] == [slice(0, 2), slice(2, 3)]
    assert [scores.tolist() for _, scores in found] == [[[8, 9], [0, 1]], [[6, 7]]]


def test_by_default_chunks_are_bounded_in_memory():
    sizes = []

    def scorer(users):
        sizes.append(len(users))
        return torch.zeros(1, 1).expand(len(users), 2**23)

    for _ in scores_in_chunks(scorer, np.arange(3), 2**23):
        pass
    assert sizes == [2, 1]  # 16 million scores


def test_a_catalogue_larger_than_a_chunk_is_scored_user_by_user():
    found = scores_in_chunks(lambda users: torch.zeros(1, 1).expand(1, 2**25), np.arange(2), 2**25)
    assert len(list(found)) == 2


def test_users_as_indices():
    assert as_user_indices(torch.tensor([2, 0], dtype=torch.int32), 3).dtype == np.int64
    assert as_user_indices([], 0).tolist() == []
    with pytest.raises(ValueError, match=r"integer \[U\], got int64 \[1, 1\]"):
        as_user_indices([[0]], 3)
    with pytest.raises(ValueError, match="user 3 is out of range"):
        as_user_indices([3], 3)
