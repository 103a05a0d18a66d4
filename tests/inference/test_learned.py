import math

import pytest
import torch

from emorec.building import build_model
from emorec.inference.learned import learned_tables
from tests.small import small_config


def model(*settings, preset="emorec"):
    return build_model(small_config(*settings, preset=preset), num_users=3, num_items=9)


def test_of_the_flagship():
    flagship = model("model.aversion=0.5")
    flagship.feedback_sum.ranking_weight.fill_(1.5)
    flagship.feedback_paths.ranking_weight.fill_(4.0)
    flagship.feedback_paths.decay_length.fill_(5.0)
    with torch.no_grad():
        flagship.sequence_encoder.layers[1].log_half_life[0] = math.log(2.0)
        flagship.feedback_sum.kind_weight[3] = -0.25
    tables = learned_tables(flagship, "s")
    terms = tables["terms of the ranking"].set_index("term")
    assert terms["weight"].to_dict() == {
        "next item": 1.0, "graph": 1.5, "paths": 4.0, "liked": 0.5, "dislikes": -0.75
    }  # fmt: skip
    assert terms["decay length"].dropna().to_dict() == {
        "graph": math.inf, "paths": 5.0, "dislikes": 25.0
    }  # fmt: skip
    assert terms["from"].to_dict() == {
        "next item": "fixed", "graph": "validation", "paths": "validation", "liked": "setting",
        "dislikes": "setting",
    }  # fmt: skip
    heads = tables["heads of the attention"].set_index(["layer", "head"])
    assert list(heads.index) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert heads.loc[(2, 1)].tolist() == pytest.approx([2.0, math.log(2) / 2])
    assert heads.loc[(1, 2), "half-life (days)"] == pytest.approx(365, rel=1e-4)
    kinds = tables["kinds of feedback in the feedback sum"].set_index("kind")["weight"]
    assert kinds["explicit positive"] == 1.0 and kinds["explicit negative"] == -0.25


def test_without_times_attention_has_no_half_lives():
    assert "heads of the attention" not in learned_tables(model(), "none")


def test_of_models_that_lack_parts():
    found = learned_tables(model(preset="emorec-graph"), "s")
    assert "heads of the attention" not in found
    assert "next item" not in found["terms of the ranking"]["term"].tolist()
    paper = learned_tables(model(preset="emo-sage-thp"), "s")
    assert paper["terms of the ranking"]["term"].tolist() == ["next item"]
    assert "kinds of feedback in the feedback sum" not in paper
