import numpy as np
import pandas as pd
import pytest
import torch

from emorec.data.interactions import Interactions
from emorec.evaluation.significance import compare
from emorec.evaluation.top_k import Evaluation, TopK, evaluate
from emorec.reports.tables import (
    COLUMNS,
    comparison_markdown,
    predictions_table,
    results_table,
    to_markdown,
)
from tests.reports.rows import ROWS

TEXT = """
@10          --------- any ----------   ---- likes ----   ------- dislikes ------   - both
model        Recall     NDCG      MAP   Recall     NDCG   Recall     nDCL   share     dNDCG
MostPop      0.0410   0.0444   0.0172   0.0505   0.0361   0.0271+  0.0200+  0.217+   0.0250*
ItemKNN      0.0621*  0.0669*  0.0266*  0.0763*  0.0514*  0.0426+  0.0300+  0.262+  -0.0310
nothing hit  0.0000   0.0000   0.0000   0.0000   0.0000   0.0000   0.0000       -    0.0000
* best of its column
+ no model with at least half of the best NDCG of likes has as many likes and fewer dislikes
"""


def test_predictions():
    row = {"brier_score": 0.2, "polarity_auc": 0.75, "roc_auc": 0.7, "calibration_error": 0.03}
    text = predictions_table({"emorec": row, "ItemPrior": {**row, "polarity_auc": float("nan")}})
    assert [line.split() for line in text.splitlines()] == [
        ["PolAUC", "ROC-AUC", "Brier", "ECE"],
        ["emorec", "0.7500", "0.7000", "0.2000", "0.0300"],
        ["ItemPrior", "-", "0.7000", "0.2000", "0.0300"],
    ]


class TestTables:
    def test_text(self):
        assert results_table(ROWS, 10) == TEXT.strip("\n")

    def test_markdown(self):
        lines = to_markdown(ROWS, 10).splitlines()
        assert lines[0] == (
            "| model | Recall@10 any | NDCG@10 any | MAP@10 any | Recall@10 likes | NDCG@10 likes "
            "| Recall@10 dislikes | nDCL@10 | disliked share | dNDCG@10 |"
        )
        assert lines[1] == "| --- |" + " ---: |" * 9
        assert lines[3] == (
            "| ItemKNN | **0.0621** | **0.0669** | **0.0266** | **0.0763** | **0.0514** | 0.0426+ "
            "| 0.0300+ | 0.262+ | -0.0310 |"
        )
        assert lines[4].endswith("| 0.0000 | 0.0000 | - | 0.0000 |")

    def test_names_cannot_break_the_table(self):
        name = "a|b *c* <d>\n&"
        line = to_markdown({name: ROWS["MostPop"]}, 10).splitlines()[-1]
        assert line.startswith(r"| a\|b \*c\* &lt;d&gt; &amp; | 0.0410 |")
        assert results_table({name: ROWS["MostPop"]}, 10).splitlines()[-1].startswith("a|b *c* <d>")

    def test_values_that_print_alike_are_equally_good(self):
        rows = {"a": dict(ROWS["MostPop"]), "b": dict(ROWS["MostPop"], recall_any=0.04101)}
        for line in results_table(rows, 10).splitlines()[2:4]:
            assert line.split()[1] == "0.0410*"

    def test_nothing_is_best_where_no_list_hits_anything(self):
        rows = {name: dict(ROWS["nothing hit"]) for name in "ab"}
        assert not {"*", "+"} & set(results_table(rows, 10))

    def test_few_dislikes_are_no_merit_without_likes(self):
        likes, dislikes = "ndcg_likes", "recall_dislikes"
        rows = {
            "best": dict(ROWS["ItemKNN"], **{likes: 0.20, dislikes: 0.10}),
            "beaten": dict(ROWS["ItemKNN"], **{likes: 0.19, dislikes: 0.11}),
            "careful": dict(ROWS["ItemKNN"], **{likes: 0.10, dislikes: 0.03}),
            "random": dict(ROWS["ItemKNN"], **{likes: 0.09, dislikes: 0.01, "delta_ndcg": 0.5}),
        }
        lines = [line.split() for line in results_table(rows, 10).splitlines()]
        shown = {cells[0]: cells[6] for cells in lines[2:6]}
        assert shown == {
            "best": "0.1000+", "beaten": "0.1100", "careful": "0.0300+", "random": "0.0100"
        }  # fmt: skip
        assert lines[5][-1] == "0.5000"  # neither is it the best difference

    def test_notes_come_last(self):
        assert results_table(ROWS, 10, ["one", "two"]).endswith("\none\ntwo")

    def test_a_single_row_is_not_best_of_anything(self):
        assert "*" not in results_table({"alone": ROWS["MostPop"]}, 10)

    def test_no_rows(self):
        assert len(results_table({}, 10).splitlines()) == 2
        assert len(to_markdown({}, 10).splitlines()) == 2

    def test_takes_an_evaluation(self):
        # One user, one held-out like, at rank 1 of 2: recall 1, NDCG 1 / (1 + 1/log2 3) = 0.6131.
        test = Interactions.from_columns([5], [7], [0], [0])
        found = evaluate(TopK(torch.tensor([[0, -1]]), torch.zeros(1, 2)), np.array([0]), test, 2)
        *_, line, users = results_table({"model": found}, 2).splitlines()
        assert line.split() == "model 1.0000 0.6131 1.0000 1.0000 0.6131 - - 0.000 -".split()
        assert users == (
            "1 users; without such held-out items, and so not in the means: "
            "any 0, likes 0, dislikes 1, both 1"
        )
        with pytest.raises(ValueError, match="'model' was evaluated at k = 2, .* k = 10"):
            results_table({"model": found}, 10)

    @pytest.mark.parametrize("table", [results_table, to_markdown])
    def test_a_missing_column_is_named(self, table):
        with pytest.raises(ValueError, match="the summary of 'x' lacks 'map_any'"):
            table({"x": {"recall_any": 0.1, "ndcg_any": 0.1}}, 10)


def evaluation(seed, shift):
    """Made-up values of 200 users; a shift lifts likes and lowers dislikes."""
    rng = np.random.default_rng(seed)
    hits = rng.integers(1, 4, 200)
    columns = {column.key: rng.random(200) / 10 for column in COLUMNS}
    for key in ("recall_likes", "ndcg_likes"):
        columns[key] += shift
    columns |= {"hits_any": hits, "hits_dislikes": rng.binomial(hits, 0.5 - 2 * shift)}
    columns |= {"hits_likes": hits - columns["hits_dislikes"], "delta_recall": np.zeros(200)}
    del columns["disliked_share"]
    return Evaluation(10, pd.DataFrame(columns, dtype=float))


class TestComparison:
    MODELS = {"weak": evaluation(1, 0.0), "a|b": evaluation(2, 0.02), "ours": evaluation(3, 0.1)}

    def rows(self):
        *table, empty, note = comparison_markdown(self.MODELS, 10, "ours").splitlines()
        assert empty == ""
        # Only the bars between cells stand between spaces.
        return [line.strip("| ").split(" | ") for line in table], note

    def test_values_with_their_intervals(self):
        table, _ = self.rows()
        assert [row[0] for row in table] == [
            "model", "---", "weak", r"a\|b", "ours", "Improv.", "p-value"
        ]  # fmt: skip
        assert {len(row) for row in table} == {1 + len(COLUMNS)}
        assert table[:2] == [
            line.strip("| ").split(" | ") for line in to_markdown(ROWS, 10).splitlines()[:2]
        ]
        column = table[0].index("NDCG@10 likes")
        values = self.MODELS["ours"].per_user["ndcg_likes"]
        text, interval = table[4][column].split("<br>")
        assert text == f"**{values.mean():.4f}**"
        low, high = map(float, interval.removeprefix("<sub>").removesuffix("</sub>").split("–"))
        half = 1.96 * values.std() / np.sqrt(200)
        assert low == pytest.approx(values.mean() - half, abs=half / 5)
        assert high == pytest.approx(values.mean() + half, abs=half / 5)

    def test_improvement_against_the_best_other_model(self):
        table, note = self.rows()
        frames = {name: model.per_user for name, model in self.MODELS.items()}
        found = compare(frames, "ours", [column.key for column in COLUMNS])
        column = table[0].index("NDCG@10 likes")
        best = found.loc[("ndcg_likes", "a|b")]
        assert best["best"]
        assert best["holm_t"] < 0.001 and best["holm_wilcoxon"] < 0.001
        assert table[5][column] == (rf"{best['improvement']:+.1f} %\*\*\*<br><sub>a\|b</sub>")
        assert table[6][column] == "&lt;.0001"
        assert "Improv.: ours against the best other model" in note
        assert r"\* p &lt; .05" in note

    def test_several_seeds(self):
        seeds = [evaluation(seed, 0.1) for seed in (3, 4, 5)]
        lines = comparison_markdown({**self.MODELS, "ours": seeds}, 10, "ours").splitlines()
        table = [line.strip("| ").split(" | ") for line in lines[:7]]
        column = table[0].index("NDCG@10 likes")
        means = [seed.per_user["ndcg_likes"].mean() for seed in seeds]
        mean, deviation = f"{np.mean(means):.4f}", f"{np.std(means, ddof=1):.4f}"
        assert table[4][column].startswith(f"**{mean}** ±{deviation.lstrip('0')}<br><sub>.")
        assert "±" not in " ".join(table[2] + table[3])  # of a single run
        # What is tested is each user's mean over the seeds.
        frames = {name: model.per_user for name, model in self.MODELS.items()}
        frames["ours"] = sum(seed.per_user for seed in seeds) / 3
        best = compare(frames, "ours", ["ndcg_likes"]).loc[("ndcg_likes", "a|b")]
        assert table[5][column].startswith(f"{best['improvement']:+.1f} %")

    def test_what_is_no_peer_is_shown_but_not_compared(self):
        options = {"k": 10, "ours": "ours", "no_peers": ["a|b"]}
        lines = comparison_markdown(self.MODELS, **options).splitlines()
        column = lines[0].split(" | ").index("NDCG@10 likes")
        assert lines[3].startswith(r"| a\|b |")
        assert lines[5].split(" | ")[column].endswith("<sub>weak</sub>")

    def test_no_star_without_significance(self):
        table, _ = self.rows()
        column = table[0].index("MAP@10 any")
        assert "*" not in table[5][column]
        assert float(table[6][column]) > 0.05

    def test_the_share_is_tested_too(self):
        table, _ = self.rows()
        column = table[0].index("disliked share")
        assert table[5][column].startswith("+")
        assert r"\*\*\*" in table[5][column]

    def test_undefined_columns(self):
        none = {
            name: Evaluation(10, model.per_user.assign(ndcl=np.nan))
            for name, model in self.MODELS.items()
        }
        lines = comparison_markdown(none, 10, "ours").splitlines()
        column = lines[0].split(" | ").index("nDCL@10")
        assert {line.split(" | ")[column] for line in lines[2:7]} == {"-"}

    def test_wrong_input_is_refused(self):
        with pytest.raises(ValueError, match="there is no model 'x'"):
            comparison_markdown(self.MODELS, 10, "x")
        with pytest.raises(ValueError, match="evaluated at k = 10, the table is for k = 5"):
            comparison_markdown(self.MODELS, 5, "ours")
        fewer = Evaluation(10, self.MODELS["ours"].per_user.iloc[1:])
        with pytest.raises(ValueError, match="run 1 has other users"):
            comparison_markdown({**self.MODELS, "ours": [self.MODELS["ours"], fewer]}, 10, "ours")
        with pytest.raises(ValueError, match="no run"):
            comparison_markdown({**self.MODELS, "ours": []}, 10, "ours")
