import math

import pytest
import torch

from emorec.evaluation.smoothing import dirichlet_energy, mean_average_distance


def slow_distance(vectors):
    pairs = [(u, v) for i, u in enumerate(vectors) for j, v in enumerate(vectors) if i != j]
    return sum(1 - float(u @ v / (u.norm() * v.norm())) for u, v in pairs) / len(pairs)


def slow_energy(vectors, node, item):
    """The first line of the formula, pair by pair."""
    incidence = torch.zeros(len(vectors), int(item.max()) + 1, dtype=torch.float64)
    for v, i in zip(node.tolist(), item.tolist(), strict=True):
        incidence[v, i] += 1
    used = incidence[:, incidence.sum(0) > 0]
    weight = (used / used.sum(0)) @ used.T
    differences = (vectors[:, None] - vectors[None]).square().sum(2)
    lengths = (incidence.sum(1) * vectors.square().sum(1)).sum()
    return float((weight * differences).sum() / (2 * lengths))


class TestMeanAverageDistance:
    @pytest.mark.parametrize(
        ("vectors", "expected"),
        [
            ([[1.0, 0.0], [5.0, 0.0], [0.1, 0.0]], 0.0),  # lengths do not matter
            ([[1.0, 0.0], [0.0, 3.0]], 1.0),
            ([[1.0, 0.0], [-2.0, 0.0]], 2.0),
            ([[1.0, 0.0], [1.0, 1.0]], 1 - math.sqrt(0.5)),
            ([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], 2 / 3),  # distances 0, 1, 1: the 0 counts
            ([[1.0, 0.0], [0.0, 0.0]], 1.0),  # no direction
            ([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], 1.0),
        ],
    )
    def test_by_hand(self, vectors, expected):
        assert mean_average_distance(torch.tensor(vectors)) == pytest.approx(expected, abs=1e-12)

    def test_against_all_pairs(self):
        vectors = torch.randn(17, 5, dtype=torch.float64, generator=torch.manual_seed(1)) + 0.5
        expected = slow_distance(vectors)
        assert 0.2 < expected < 0.9
        assert mean_average_distance(vectors) == pytest.approx(expected, rel=1e-12)

    def test_unrelated_directions_are_at_1(self):
        vectors = torch.randn(2000, 64, generator=torch.manual_seed(1))
        assert mean_average_distance(vectors) == pytest.approx(1, abs=0.002)

    @pytest.mark.parametrize(
        ("vectors", "message"),
        [
            ([[1.0, 2.0]], "at least 2"),
            ([[1.0], [math.nan]], "vector 1"),
            ([1.0, 2.0], r"\[N, D\]"),
        ],
    )
    def test_rejects(self, vectors, message):
        with pytest.raises(ValueError, match=message):
            mean_average_distance(torch.tensor(vectors))


class TestDirichletEnergy:
    # Node 0 and 1 share item 0, node 1 and 2 share item 1; node 3 has no events.
    NODE, ITEM = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1])

    @pytest.mark.parametrize(
        ("vectors", "expected"),
        [
            ([[2.0], [2.0], [2.0], [9.0]], 0.0),
            ([[1.0], [-1.0], [1.0], [9.0]], 1.0),
            # w = 1/2 for (0, 1) and (1, 2): both ways 2 * (1/2 + 0) over 2 * (1 + 0 + 0)
            ([[1.0], [0.0], [0.0], [9.0]], 0.5),
            # 2 * (1/2 * 1 + 1/2 * 1) over 2 * (1 + 2 * 4 + 9)
            ([[1.0], [2.0], [3.0], [0.0]], 1 / 18),
        ],
    )
    def test_by_hand(self, vectors, expected):
        energy = dirichlet_energy(torch.tensor(vectors), self.NODE, self.ITEM)
        assert energy == pytest.approx(expected, abs=1e-12)

    def test_parts_of_the_graph_may_differ(self):
        vectors = torch.tensor([[1.0], [1.0], [-3.0], [-3.0]])
        node, item = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 7, 7])
        assert dirichlet_energy(vectors, node, item) == 0

    def test_against_all_pairs(self):
        rng = torch.manual_seed(2)
        vectors = torch.randn(12, 4, dtype=torch.float64, generator=rng) + 0.3
        node = torch.randint(12, (60,), generator=rng)
        item = torch.randint(9, (60,), generator=rng)  # repeated events among them
        expected = slow_energy(vectors, node, item)
        assert 0.1 < expected < 0.95
        assert dirichlet_energy(vectors, node, item) == pytest.approx(expected, rel=1e-12)
        assert dirichlet_energy(7 * vectors, node, item) == pytest.approx(expected, rel=1e-12)

    def test_smoothing_lowers_it(self):
        rng = torch.manual_seed(3)
        node, item = (
            torch.randint(30, (300,), generator=rng),
            torch.randint(20, (300,), generator=rng),
        )
        incidence = torch.zeros(30, 20).index_put((node, item), torch.tensor(1.0), accumulate=True)
        step = (incidence / incidence.sum(1, True)) @ (incidence / incidence.sum(0)).T
        vectors = torch.randn(30, 8, generator=rng)
        energies = []
        for _ in range(6):
            energies.append(dirichlet_energy(vectors, node, item))
            vectors = step @ vectors
        assert energies == sorted(energies, reverse=True)
        assert energies[0] > 0.5
        assert energies[-1] < 0.01

    @pytest.mark.parametrize(
        ("vectors", "node", "item", "message"),
        [
            ([[1.0]], [1], [0], r"node must be in 0 \.\. 0, got 1"),
            ([[1.0]], [0], [-2], "item must be at least 0, got -2"),
            ([[1.0]], [0, 0], [0], r"must be \[E\]"),
            ([[0.0], [1.0]], [0], [0], "are 0"),
            ([[1.0]], [], [], "are 0"),
            ([[math.inf]], [0], [0], "vector 0"),
        ],
    )
    def test_rejects(self, vectors, node, item, message):
        node, item = (torch.tensor(index, dtype=torch.int64) for index in (node, item))
        with pytest.raises(ValueError, match=message):
            dirichlet_energy(torch.tensor(vectors), node, item)
