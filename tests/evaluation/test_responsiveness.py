import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from emorec.baselines import ItemKNN, MostPop
from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.synthetic import generate
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation.responsiveness import evaluate_responsiveness, responsiveness, with_events
from emorec.evaluation.top_k import TopK, seen_matrix

LOVE, LIKE, SKIP, HATE = Feedback


def lists(items):
    items = torch.tensor(items)
    return TopK(items, torch.zeros(items.shape))


def neighbourhoods(pairs, num_items):
    rows, columns = np.array(pairs).reshape(-1, 2).T
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (num_items, num_items))


def log(rows, num_users, num_items):
    user, item, feedback, time = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Interactions(
        user, item, feedback, time, Vocabulary(range(num_users)), Vocabulary(range(num_items))
    )


# Item 0 is like items 1, 2 and 3 (and like itself, which must not count).
NEAR_0 = neighbourhoods([(0, 0), (0, 1), (0, 2), (0, 3), (4, 0)], 9)


class TestResponsiveness:
    # Before, without item 0: 1, 2 (neighbours), 4, 5, 6 (others).
    BEFORE = lists([[0, 1, 4, 2, 5, 6]])

    def values(self, after, **options):
        return responsiveness(self.BEFORE, lists([after]), [0], NEAR_0, 5, **options).loc[0]

    def test_hand_worked(self):
        # Of the neighbours 1 and 2 one leaves; of the others 4, 5 and 6 two stay.
        found = self.values([4, 2, 5, 7, 8])
        assert found.to_dict() == {
            "responsiveness": 0.5,
            "left": 0.5,
            "left_control": 0.0,
            "locality": pytest.approx(2 / 3),
            "neighbours": 2.0,
        }

    def test_all_neighbours_leave_and_nothing_else_changes(self):
        found = self.values([4, 5, 6, 7, 8])
        assert (found["responsiveness"], found["locality"]) == (1, 1)

    def test_a_scorer_that_ignores_the_event(self):
        found = self.values([1, 4, 2, 5, 6])
        assert (found["responsiveness"], found["locality"]) == (0, 1)

    def test_the_end_of_a_short_list_is_nobodys_neighbour(self):
        near = neighbourhoods([(0, 8), (4, 1)], 9)  # 8 is the last item, as -1 would be
        short = lists([[0, 1, 8], [4, 1, -1]])
        found = responsiveness(short, lists([[1, 2], [1, -1]]), [0, 4], near, 2)
        assert found["neighbours"].tolist() == [1, 1]
        assert found["left"].tolist() == [1, 0]

    def test_another_order_is_the_same_list(self):
        assert self.values([6, 5, 2, 4, 1])["responsiveness"] == 0

    def test_a_control(self):
        # After a like one neighbour leaves as well, so half of what leaves is the dislike's merit.
        found = self.values([4, 5, 6, 7, 8], control=lists([[1, 4, 5, 6, 7]]))
        assert (found["left"], found["left_control"]) == (1.0, 0.5)
        assert found["responsiveness"] == 0.5
        # Worse than the control is below 0.
        worse = self.values([1, 2, 4, 5, 6], control=lists([[4, 5, 6, 7, 8]]))
        assert worse["responsiveness"] == -1

    def test_neighbours_that_enter_do_not_count(self):
        assert self.values([1, 2, 3, 4, 5])["responsiveness"] == 0

    def test_without_neighbours_or_without_others(self):
        none = responsiveness(lists([[0, 4, 5]]), lists([[4, 6]]), [0], NEAR_0, 2).loc[0]
        assert math.isnan(none["responsiveness"]) and math.isnan(none["left"])
        assert (none["locality"], none["neighbours"]) == (0.5, 0)
        only = responsiveness(lists([[0, 1, 2]]), lists([[1, 4]]), [0], NEAR_0, 2).loc[0]
        assert only["responsiveness"] == 0.5
        assert math.isnan(only["locality"])

    def test_empty_places(self):
        # As an index, an empty place would be the last item, which is a neighbour of 0 here.
        last = neighbourhoods([(0, 1), (0, 8)], 9)
        found = responsiveness(lists([[0, 1, 4, -1]]), lists([[4, -1, -1]]), [0], last, 3).loc[0]
        assert (found["responsiveness"], found["locality"], found["neighbours"]) == (1, 1, 1)

    def test_the_item_may_stand_anywhere_before_or_nowhere(self):
        after = lists([[4, 5, 6, 7, 8]])
        top = responsiveness(self.BEFORE, after, [0], NEAR_0, 5)
        inside = responsiveness(lists([[1, 4, 2, 0, 5, 6]]), after, [0], NEAR_0, 5)
        absent = responsiveness(lists([[1, 4, 2, 5, 6]]), after, [0], NEAR_0, 5)
        assert top.equals(inside)
        assert top.equals(absent)

    def test_no_users(self):
        empty = TopK(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3))
        assert len(responsiveness(empty, empty, np.zeros(0, np.int64), NEAR_0, 2)) == 0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"k": 6, "before": lists([range(7)])},
                r"k must be in 1 \.\. 5 \(the length of after\), got 6",
            ),
            ({"k": 0}, "got 0"),
            ({"items": [9]}, r"items holds 9, must be in 0 \.\. 8"),
            ({"items": [0, 1]}, "got 1 lists before for 2 items"),
            ({"neighbours": sparse.csr_matrix((9, 8))}, r"must be square, got \[9, 8\]"),
            ({"after": lists([[4, 0, 5, 6, 7]])}, "list 0 after holds item 0 itself; .* seen"),
            ({"control": lists([[0, 4, 5, 6, 7]])}, "list 0 control holds item 0 itself"),
            ({"before": lists([[0, 1, 2, 3, 4]])}, r"list 0 before holds .* of k \+ 1 items"),
        ],
    )
    def test_wrong_input_is_refused(self, change, message):
        arguments = {
            "before": self.BEFORE,
            "after": lists([[4, 2, 5, 7, 8]]),
            "items": [0],
            "neighbours": NEAR_0,
            "k": 5,
        }
        with pytest.raises(ValueError, match=message):
            responsiveness(**{**arguments, **change})

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 5))
    def test_against_sets(self, seed, k):
        rng = np.random.default_rng(seed)
        before = np.stack([rng.permutation(12)[: k + 1] for _ in range(6)])
        met = before[:, 0]
        after, control = (
            np.stack([rng.permutation([i for i in range(12) if i != x])[:k] for x in met])
            for _ in range(2)
        )
        similar = rng.random((12, 12)) < 0.4
        found = responsiveness(
            lists(before.tolist()),
            lists(after.tolist()),
            met,
            sparse.csr_matrix(similar.astype(np.float32)),
            k,
            lists(control.tolist()),
        )
        for row, x in enumerate(met):
            near = set(np.flatnonzero(similar[x])) - {x}
            b, a, c = set(before[row, 1:]), set(after[row]), set(control[row])
            expected = [math.nan] * 3
            if b & near:
                left, kept = len(b & near - a) / len(b & near), len(b & near - c) / len(b & near)
                expected = [left - kept, left, kept]
            expected.append(len(b & a - near) / len(b - near) if b - near else math.nan)
            expected.append(len(b & near))
            np.testing.assert_allclose(found.loc[row], expected)


class TestWithEvents:
    HISTORY = log([(1, 0, LIKE, 50), (0, 2, HATE, 90), (1, 1, LIKE, 40)], 3, 4)

    def test_a_moment_after_each_users_last(self):
        longer = with_events(self.HISTORY, np.array([1, 2, 0]), np.array([3, 0, 1]))
        assert longer.user.tolist() == [1, 0, 1, 1, 2, 0]
        assert longer.item.tolist() == [0, 2, 1, 3, 0, 1]
        assert longer.time.tolist() == [50, 90, 40, 51, 91, 91]  # user 2 had no event before
        assert longer.feedback.tolist() == [LIKE, HATE, LIKE, HATE, HATE, HATE]
        # Each is the last of its user in time order.
        assert longer.chronological().tolist() == [1, 5, 2, 0, 3, 4]

    def test_last_in_a_log_without_times(self):
        history = replace(self.HISTORY, time=np.zeros(3), time_unit="none")
        longer = with_events(history, np.array([1]), np.array([3]))
        assert longer.time.tolist() == [0] * 4
        assert longer.item[longer.chronological()].tolist() == [2, 0, 1, 3]

    def test_any_feedback(self):
        assert with_events(self.HISTORY, np.array([0]), np.array([0]), SKIP).feedback[-1] == SKIP

    def test_the_history_stays_as_it_was(self):
        with_events(self.HISTORY, np.array([0]), np.array([0]))
        assert len(self.HISTORY) == 3

    def test_wrong_input_is_refused(self):
        with pytest.raises(ValueError, match="user 3 is out of range"):
            with_events(self.HISTORY, np.array([3]), np.array([0]))
        with pytest.raises(ValueError, match="item is 4"):
            with_events(self.HISTORY, np.array([0]), np.array([4]))
        with pytest.raises(ValueError, match="the log is empty"):
            with_events(log([], 1, 1), np.array([0]), np.array([0]))


class SignedKNN:
    """Adds the similarity to what was liked, and ``weight`` times that to what was not."""

    def __init__(self, similarity, history, weight):
        signs = np.where(history.is_positive, 1.0, weight).astype(np.float32)
        shape = (history.num_users, history.num_items)
        self.taste = sparse.csr_matrix((signs, (history.user, history.item)), shape)
        self.similarity = similarity

    def __call__(self, users):
        return torch.from_numpy((self.taste[users.numpy()] @ self.similarity).toarray())


class TestJudgeResponsiveness:
    LOG = generate(num_users=80, num_items=60, num_topics=8, events_per_user=12).interactions
    NEIGHBOURS = ItemKNN(neighbours=12).fit(LOG).similarity
    USERS = np.arange(0, LOG.num_users, 2)

    def evaluate_scorer(self, scorer_of, **options):
        return evaluate_responsiveness(
            scorer_of, self.LOG, self.USERS, self.NEIGHBOURS, 8, **options
        ).mean()

    def test_popularity_does_not_listen(self):
        popular = MostPop().fit(self.LOG)
        found = self.evaluate_scorer(lambda history: popular)
        assert (found["responsiveness"], found["over_like"], found["locality"]) == (0, 0, 1)

    def test_a_model_that_pushes_neighbours_away(self):
        found = self.evaluate_scorer(lambda log: SignedKNN(self.NEIGHBOURS, log, weight=-3.0))
        assert found["responsiveness"] > 0.5
        assert found["over_like"] > 0.5
        assert found["left_control"] == 0

    def test_a_model_that_takes_a_dislike_for_a_like(self):
        found = self.evaluate_scorer(lambda log: SignedKNN(self.NEIGHBOURS, log, weight=1.0))
        # It brings more of the neighbourhood, just as a like would.
        assert found["responsiveness"] < 0.2
        assert found["over_like"] == 0

    def test_by_user_in_any_chunks(self):
        def scorer_of(history):
            return SignedKNN(self.NEIGHBOURS, history, weight=-3.0)

        frames = [
            evaluate_responsiveness(scorer_of, self.LOG, self.USERS, self.NEIGHBOURS, 8, size)
            for size in (None, 7)
        ]
        assert frames[0].index.tolist() == self.USERS.tolist()
        assert frames[0].equals(frames[1])

    def test_users_without_a_candidate_are_left_out(self):
        everything = log([(0, item, LIKE, item) for item in range(3)] + [(1, 0, LIKE, 0)], 2, 3)
        popular = MostPop().fit(everything)
        found = evaluate_responsiveness(
            lambda history: popular,
            everything,
            [0, 1],
            seen_matrix(everything).T @ seen_matrix(everything),
            1,
        )
        assert found.index.tolist() == [1]

    def test_plays_that_follow_are_part_of_the_control_too(self):
        popular = MostPop().fit(self.LOG)
        found = self.evaluate_scorer(lambda history: popular, plays=3)
        assert (found["responsiveness"], found["locality"]) == (0, 1)
        # This model knows the whole history, so that a dislike is not forgotten ...
        lasting = self.evaluate_scorer(
            lambda log: SignedKNN(self.NEIGHBOURS, log, weight=-3.0), plays=3
        )
        assert lasting["responsiveness"] > 0.3

        def forgetful(log):  # ... and this one looks at each user's newest event alone.
            newest = np.zeros(log.num_users, np.int64)
            np.maximum.at(newest, log.user, log.time)
            return SignedKNN(self.NEIGHBOURS, log.select(log.time == newest[log.user]), weight=-3.0)

        assert abs(self.evaluate_scorer(forgetful, plays=3)["responsiveness"]) < 0.05
        assert self.evaluate_scorer(forgetful)["responsiveness"] > 0.3

    def test_users_must_be_distinct(self):
        with pytest.raises(ValueError, match="users must be distinct"):
            evaluate_responsiveness(lambda history: None, self.LOG, [1, 1], self.NEIGHBOURS, 3)
