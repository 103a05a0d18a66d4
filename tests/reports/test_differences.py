import math

import numpy as np
import pandas as pd
import pytest

from emorec.evaluation.top_k import Evaluation
from emorec.reports.differences import differences, differences_table

STEPS = np.arange(1, 9) / 100  # of eight users


def evaluation(any_, likes, dislikes):
    columns = {"ndcg_any": any_, "ndcg_likes": likes, "ndcg_dislikes": dislikes}
    return Evaluation(10, pd.DataFrame({name: 0.5 + values for name, values in columns.items()}))


# All eight differences point the same way: Wilcoxon's p is 2 / 2^8 = 1/128, above the t-test's;
# with two such metrics of three, Holm's correction makes 3/128 of both. Equal values have p = 1.
MODELS = {
    "ours": evaluation(STEPS, STEPS, STEPS),
    "peer": evaluation(0 * STEPS, STEPS, 0 * STEPS),
}
TEXT = """\
ours against every other model, on the same users
              other model   ours  other difference      p ours is
     NDCG any        peer 0.5450 0.5000    +0.0450 0.0234  better
   NDCG likes        peer 0.5450 0.5450    +0.0000 1.0000 unclear
NDCG dislikes        peer 0.5450 0.5000    +0.0450 0.0234   worse
"""


class TestDifferences:
    def test_values(self):
        table = differences(MODELS, "ours")
        assert table["metric"].tolist() == ["ndcg_any", "ndcg_likes", "ndcg_dislikes"]
        assert table["peer"].tolist() == ["peer"] * 3
        assert table["users"].tolist() == [8] * 3
        assert table["ours"].tolist() == pytest.approx([0.545] * 3)
        assert table["theirs"].tolist() == pytest.approx([0.5, 0.545, 0.5])
        assert table["difference"].tolist() == pytest.approx([0.045, 0, 0.045])
        assert table["p"].tolist() == pytest.approx([3 / 128, 1, 3 / 128])
        assert table["verdict"].tolist() == ["better", "unclear", "worse"]

    def test_the_other_way_round(self):
        table = differences(MODELS, "peer")
        assert table["difference"].tolist() == pytest.approx([-0.045, 0, -0.045])
        assert table["verdict"].tolist() == ["worse", "unclear", "better"]

    def test_users_without_a_value_are_left_out(self):
        likes = np.append(STEPS[:7], math.nan)
        table = differences({**MODELS, "peer": evaluation(STEPS, likes, STEPS)}, "ours")
        assert table["users"].tolist() == [8, 7, 8]
        assert table["ours"][1] == pytest.approx(0.54)

    def test_text(self):
        text = differences_table(MODELS, "ours")
        assert text.startswith(TEXT)
        assert "being 3 differences (Holm)" in text

    def test_sure_or_undefined(self):
        steps, none = np.arange(1, 201) / 1000, np.full(200, math.nan)
        models = {"a": evaluation(steps, steps, none), "b": evaluation(0 * steps, steps, none)}
        *_, any_, _, dislikes = (
            differences_table(models, "a").partition("\nNDCG dislikes is")[0].splitlines()
        )
        assert any_.split()[-2:] == ["<0.0001", "better"]
        assert dislikes.split() == ["NDCG", "dislikes", "b", "-", "-", "-", "-", "unclear"]

    def test_wrong_input_is_refused(self):
        with pytest.raises(ValueError, match="there is no model 'x'"):
            differences(MODELS, "x")
        with pytest.raises(ValueError, match="no other model"):
            differences({"ours": MODELS["ours"]}, "ours")
