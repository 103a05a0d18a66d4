import numpy as np
import pytest
from scipy import sparse

from emorec.baselines import neighbours
from emorec.baselines.neighbours import largest_of_rows, nearest_items, neighbour_weights


def random_history(seed, num_users=40, num_items=30):
    """Popular items and rare ones, some without users, some with the same users."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((num_users, num_items)) < rng.random(num_items) ** 3
    matrix[:, 5] = matrix[:, 6] = matrix[:, 7] = matrix[:, 8]
    matrix[0] = True  # somebody has everything
    matrix[:, [2, num_items - 1]] = False
    return sparse.csr_matrix(matrix.astype(np.float32))


def plain_nearest(history, count, shrink):
    """The same as `nearest_items`, item by item."""
    matrix = history.toarray().astype(np.float64)
    gram = matrix.T @ matrix
    norms = np.sqrt(np.diagonal(gram))
    found = np.zeros(gram.shape)
    for item, row in enumerate(gram):
        others = np.flatnonzero(row)
        similarity = row[others] / (norms[item] * norms[others] + shrink)
        best = np.lexsort((others, -similarity))[:count]
        found[item, others[best]] = similarity[best]
    return found


def plain_weights(history, near, regularization):
    """The same as `neighbour_weights`, item by item."""
    matrix = history.toarray().astype(np.float64)
    gram = matrix.T @ matrix
    found = np.zeros(gram.shape)
    for item in range(len(gram)):
        others = near.indices[near.indptr[item] : near.indptr[item + 1]]
        others = others[others != item]
        among = gram[np.ix_(others, others)] + regularization * np.eye(len(others))
        found[others, item] = np.linalg.solve(among, gram[others, item])
    return found


@pytest.fixture(params=["as they are", "tiny"])
def bounds(request, monkeypatch):
    """Bounds of memory that the logs here do not reach, and others that they all exceed."""
    if request.param == "tiny":
        for name, value in (("ENTRIES", 40), ("CELLS", 50), ("SOLVES", 3)):
            monkeypatch.setattr(neighbours, f"_{name}", value)
        monkeypatch.setattr(neighbours, "_BUFFER_BYTES", 150)
        monkeypatch.setattr(neighbours, "_GROUP_BYTES", 500)


@pytest.mark.usefixtures("bounds")
class TestAgainstPlainCounts:
    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize(("count", "shrink"), [(1, 0.0), (4, 0.0), (9, 2.5), (100, 0.0)])
    def test_nearest_items(self, seed, count, shrink):
        history = random_history(seed)
        found = nearest_items(history, count, shrink, longest=11)
        expected = plain_nearest(history, count, shrink)
        np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
        for first, last in zip(found.indptr[:-1], found.indptr[1:], strict=True):
            assert (np.diff(found.data[first:last]) <= 0).all()

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("count", [1, 2, 5, 6, 100])
    def test_weights(self, seed, count):
        history = random_history(seed)
        near = nearest_items(history, count)
        found = neighbour_weights(history, near, 3.0)
        expected = plain_weights(history, near, 3.0)
        np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize("num_users", [300, 70_000])
    def test_counts_of_many_users(self, num_users):
        # Counts need more than one byte, or more than two. Items 0 to 2 share most users; item 3
        # shares few with them and its own count is large.
        user = np.arange(num_users)
        shares = np.stack([user % 10 > 0, user % 9 > 0, user % 8 > 0, user % 100 == 1], axis=1)
        few = np.stack([user < 3, user < 2], axis=1)
        history = sparse.csr_matrix(np.concatenate([shares, few], axis=1).astype(np.float32))
        for count in (2, 3, 6):
            near = nearest_items(history, count)
            found = neighbour_weights(history, near, 50.0)
            expected = plain_weights(history, near, 50.0)
            np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5, atol=1e-7)

    def test_a_frequent_item_with_rare_neighbours(self):
        # Counts among its neighbours need one byte, that of its own users two.
        matrix = np.zeros((400, 4), np.float32)
        matrix[:, 0] = 1
        for item, last in ((1, 5), (2, 4), (3, 7)):
            matrix[2:last, item] = 1
        history = sparse.csr_matrix(matrix)
        near = nearest_items(history, 4)
        found = neighbour_weights(history, near, 2.0).toarray()
        np.testing.assert_allclose(found, plain_weights(history, near, 2.0), rtol=1e-6)

    def test_no_items(self):
        none = sparse.csr_matrix((3, 0), dtype=np.float32)
        assert nearest_items(none, 5).shape == (0, 0)
        assert neighbour_weights(none, nearest_items(none, 5), 1.0).shape == (0, 0)

    def test_items_of_nobody(self):
        none = sparse.csr_matrix((3, 4), dtype=np.float32)
        near = nearest_items(none, 5)
        assert near.shape == (4, 4) and near.nnz == 0
        assert neighbour_weights(none, near, 1.0).nnz == 0


@pytest.mark.parametrize(("name", "bound"), [("BYTES", 400), ("ITEMS", 7)])
def test_groups_keep_to_their_bounds(monkeypatch, name, bound):
    history = random_history(0)
    near = nearest_items(history, 8)
    whole = neighbour_weights(history, near, 3.0)
    made = []
    build = neighbours._Group.__init__

    def noted(self, *args):
        build(self, *args)
        made.append(self)

    monkeypatch.setattr(neighbours._Group, "__init__", noted)
    monkeypatch.setattr(neighbours, f"_GROUP_{name}", bound)
    parts = neighbour_weights(history, near, 3.0)
    assert len(made) > 2
    if name == "BYTES":
        assert max(group.counts.nbytes for group in made) <= bound
    else:
        assert max(len(group.items) for group in made) <= bound
    items = np.concatenate([group.items for group in made])
    assert sorted(items) == np.flatnonzero(np.diff(near.indptr) > 1).tolist()  # each in one
    np.testing.assert_allclose(parts.toarray(), whole.toarray(), rtol=1e-6)


@pytest.mark.usefixtures("bounds")
class TestLargestOfRows:
    def test_by_hand(self):
        matrix = [[0.5, 0, -2, 0.5], [0, 0, 0, 0], [1, 3, 0, -3]]
        found = largest_of_rows(sparse.csr_matrix(matrix), 2)
        assert found.toarray().tolist() == [[0.5, 0, -2, 0], [0] * 4, [0, 3, 0, -3]]
        assert found.indices.tolist() == [2, 0, 1, 3]  # the largest first, then the lower column
        assert largest_of_rows(sparse.csr_matrix((0, 3)), 2).shape == (0, 3)

    @pytest.mark.parametrize("count", [1, 3, 50])
    def test_ties_and_rows_of_all_lengths(self, count):
        rng = np.random.default_rng(0)
        matrix = rng.integers(-4, 5, (60, 40)) * (rng.random((60, 40)) < rng.random((60, 1)))
        found = largest_of_rows(sparse.csr_matrix(matrix.astype(np.float64)), count)
        for row, first, last in zip(matrix, found.indptr[:-1], found.indptr[1:], strict=True):
            columns = np.flatnonzero(row)
            best = columns[np.argsort(-np.abs(row[columns]), kind="stable")][:count]
            assert found.indices[first:last].tolist() == best.tolist()
            assert found.data[first:last].tolist() == row[best].tolist()

    def test_sizes_that_float32_does_not_tell_apart(self):
        matrix = sparse.csr_matrix(1 + 1e-12 * np.array([[1.0, 3, 2, 4]]))
        assert largest_of_rows(matrix, 2).indices.tolist() == [3, 1]
