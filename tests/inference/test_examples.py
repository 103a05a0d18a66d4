import numpy as np
import pytest

from emorec.data.feedback import Feedback
from emorec.data.splits import split_interactions
from emorec.data.synthetic import generate
from emorec.data.titles import Titles
from emorec.inference import examples
from emorec.inference.examples import choose_users, examples_of
from emorec.recommender import EmoRec
from tests.small import small_config, small_log

LOG = generate(num_users=40, num_items=50, num_topics=8, events_per_user=12).interactions
SPLIT = split_interactions(LOG, n=3)
USERS, ITEMS = SPLIT.train.users, SPLIT.train.items


@pytest.fixture(scope="module")
def fitted():
    config = small_config("training.epochs=1", "graph.paths=9", preset="emorec")
    return EmoRec(config=config).fit(SPLIT, progress=False)


class TestChooseUsers:
    # User u has u + 1 events; only those of odd number dislike one.
    HISTORY = small_log(
        [(u, i, 3 if u % 2 and not i else 0, i) for u in range(8) for i in range(u + 1)], 9, 9
    )

    def test_users_with_a_dislike_by_length_of_history(self):
        test = small_log([(u, 0, 0, 99) for u in range(9)], 9, 9)
        assert choose_users(self.HISTORY, test, 4, seed=0).tolist() == [1, 3, 5, 7]
        two = [choose_users(self.HISTORY, test, 2, seed).tolist() for seed in range(20)]
        assert {tuple(each) for each in two} == {(1, 5), (1, 7), (3, 5), (3, 7)}
        assert choose_users(self.HISTORY, test, 2, 3).tolist() == two[3]

    def test_others_where_too_few_dislike(self):
        test = small_log([(u, 0, 0, 99) for u in (0, 1, 2, 8)], 9, 9)
        assert choose_users(self.HISTORY, test, 3, seed=0).tolist() == [0, 1, 2]  # 8 has no event

    def test_nobody(self):
        assert len(choose_users(self.HISTORY, small_log([], 9, 9), 3, seed=0)) == 0


class TestExamplesOf:
    def of(self, fitted, lists=None, **options):
        users = np.array([2, 5])
        lists = np.array([[4, 7, -1], [9, -1, -1]]) if lists is None else lists
        return examples_of(fitted.model, SPLIT.history, SPLIT.test, users, lists, **options)

    def test_histories_lists_and_held_out_items(self, fitted):
        held_out = SPLIT.test.select(SPLIT.test.user == 2)
        lists = np.array([[held_out.item[0], -1], [4, 7]])
        first, second = self.of(fitted, lists)
        own = SPLIT.history.select(SPLIT.history.user == 2)
        assert (first.user, first.num_events) == (USERS.ids[2], len(own))
        assert first.num_held_out == len(np.unique(held_out.item))
        newest = own.time.argmax()
        assert first.events[0].item == ITEMS.ids[own.item[newest]]
        assert first.events[0].feedback == own.feedback[newest]
        assert len(first.events) == min(8, len(own))
        assert first.items[0].held_out == Feedback(
            held_out.feedback[held_out.item == lists[0, 0]][-1]
        )
        assert [each.item for each in second.items] == [ITEMS.ids[4], ITEMS.ids[7]]

    def test_reasons_and_probabilities_are_those_of_explanations(self, fitted):
        first, _ = self.of(fitted)
        item = ITEMS.ids[4]
        (found,) = fitted.explain(USERS.ids[2], [item], before_test=True)
        raising = found.events[found.events["effect"] > 0].iloc[0]
        assert first.items[0].liked == pytest.approx(found.liked, abs=1e-5)
        assert first.items[0].reason.startswith(f"raised by {raising['item']} (")
        assert f"{raising['effect']:+.2f}, most of it from" in first.items[0].reason

    def test_titles_stand_for_ids(self, fitted):
        texts = np.array([f"Title {item}" for item in range(len(ITEMS))], dtype=object)
        texts[7] = None
        first, _ = self.of(fitted, titles=Titles(texts, ITEMS))
        assert [each.item for each in first.items] == ["Title 4", ITEMS.ids[7]]
        assert "raised by Title " in first.items[0].reason

    def test_few_events_are_explained(self, fitted, monkeypatch):
        asked = []
        explain = examples.explain

        def noted(*args):
            found = explain(*args)
            asked.extend(len(each.events) for each in found)
            return found

        monkeypatch.setattr(examples, "explain", noted)
        monkeypatch.setattr(examples, "EXPLAINED_EVENTS", 4)
        self.of(fitted)
        assert asked == [4, 4, 4]

    def test_a_model_that_cannot_be_explained_has_lists_without_reasons(self):
        config = small_config("training.epochs=1", preset="diff-gat")
        model = EmoRec(config=config).fit(SPLIT, progress=False)
        first, _ = self.of(model)
        assert [each.reason for each in first.items] == ["", ""]
        assert [each.item for each in first.items] == [ITEMS.ids[4], ITEMS.ids[7]]
