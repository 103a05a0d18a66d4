from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from emorec.building import build_model, check_memory
from emorec.config import Config, ConfigError, load_config, preset_names
from emorec.data.graph import schema

PAPER = {
    "base-gat",
    "emo-gat",
    "diff-gat",
    "emo-sage-thp",
    "emo-sage-thp-negatives",
    "emo-gat-thp-polarity",
    "diff-gat-thp-polarity",
}


def flat(config, path=""):
    """Every setting by its dotted name."""
    found = {}
    for key, value in config:
        name = f"{path}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, BaseModel) else {name: value}
    return found


def different_value(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 or 0.5
    if isinstance(value, int):
        return value + 1
    return value + "x"


class TestPresets:
    def test_names(self):
        assert set(preset_names()) == PAPER | {"emorec", "emorec-graph"}

    @pytest.mark.parametrize("name", sorted(PAPER | {"emorec", "emorec-graph"}))
    def test_loads_and_builds_a_model(self, name):
        config = load_config(name, settings=("model.backend=torch",))
        assert config.preset == name
        model = build_model(config, num_users=3, num_items=4)
        assert (model.polarity is not None) is (config.model.polarity != "none")
        assert (model.sequence_encoder is not None) is ("thp" in name or name == "emorec")
        relations = schema(feedback_nodes=name != "base-gat")
        assert model.graph_encoder is None or model.graph_encoder.relations == relations

    def test_all_differ(self):
        models = [flat(load_config(name)) for name in preset_names()]
        for model in models:
            del model["preset"]
        assert all(one != other for i, one in enumerate(models) for other in models[:i])

    @pytest.mark.parametrize("name", sorted(PAPER))
    def test_say_what_their_names_say(self, name):
        config = load_config(name)
        assert config.graph.conv == ("sage" if "sage" in name else "gat")
        assert config.graph.feedback_nodes is ("base" not in name)
        assert config.graph.signed is ("diff" in name)
        assert (config.sequence.layers > 0) is ("thp" in name)
        assert (config.model.polarity == "next") is ("polarity" in name)
        assert (config.loss.use_negatives > 0) is ("negatives" in name)
        assert config.loss.ranking == "bpr"
        assert config.sequence.decay == "multiplicative"

    @pytest.mark.parametrize(
        ("name", "base", "difference"),
        [
            ("diff-gat", "emo-gat", {"graph.signed"}),
            ("diff-gat-thp-polarity", "emo-gat-thp-polarity", {"graph.signed"}),
            ("emo-sage-thp-negatives", "emo-sage-thp", {"loss.use_negatives"}),
        ],
    )
    def test_pairs_differ_in_one_thing(self, name, base, difference):
        one, other = flat(load_config(name)), flat(load_config(base))
        assert {key for key in one if one[key] != other[key]} == {"preset"} | difference


class TestLoad:
    def test_later_sources_win(self, tmp_path):
        file = tmp_path / "run.toml"
        file.write_text("[training]\nepochs = 3\nseed = 4\n[graph]\nlayers = 3\n")
        config = load_config("base-gat", file, ("training.epochs=7",))
        assert config.training.epochs == 7
        assert config.training.seed == 4
        assert config.graph.layers == 3
        assert config.graph.conv == "gat"  # the preset's
        assert config.training.batch_size == Config().training.batch_size

    def test_a_file_may_name_its_preset(self, tmp_path):
        file = tmp_path / "run.toml"
        file.write_text('preset = "diff-gat"\n[training]\nepochs = 3\n')
        config = load_config("emorec", file)
        assert config.preset == "diff-gat"
        assert config.graph.signed

    def test_round_trip_of_every_value(self, tmp_path):
        config = load_config("diff-gat-thp-polarity")  # signed, so it cannot lose its nodes
        changes = {
            name: value
            for name, value in flat(config).items()
            if isinstance(value, (bool, int, float))
            and name not in ("graph.feedback_nodes", "graph.paths", "training.shard_items")
        }
        # By aversion, by half-lives, by days and gaps.
        for needed in ("model.polarity=item", "graph.conv=sage", "split.method=time"):
            config = config.with_settings(needed)
        for name, value in changes.items():
            config = config.with_settings(f"{name}={str(different_value(value)).lower()}")
        config = config.with_settings('data.dataset="Zoë\'s \\"log\\".csv"')
        file = tmp_path / "config.toml"
        file.write_text(config.to_toml(), encoding="utf-8")
        assert load_config(file=file) == config

    def test_every_value_is_written_out(self):
        written = tomllib.loads(Config().to_toml())
        assert flat(Config()).keys() == {
            f"{section}.{key}" if isinstance(values, dict) else section
            for section, values in written.items()
            for key in (values if isinstance(values, dict) else [""])
        }

    def test_missing_file(self, tmp_path):
        with pytest.raises(ConfigError, match="gone.toml: cannot be read"):
            load_config(file=tmp_path / "gone.toml")

    @pytest.mark.parametrize("content", [b"[training\nepochs = 3", b"epochs: 3", b"\xff\xfe"])
    def test_damaged_file(self, tmp_path, content):
        file = tmp_path / "run.toml"
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="run.toml: (is not TOML|cannot be read)"):
            load_config(file=file)

    @pytest.mark.parametrize("from_file", [True, False])
    def test_unknown_preset(self, tmp_path, from_file):
        file = tmp_path / "run.toml"
        file.write_text('preset = "emo-gatt"')
        source = "run.toml: " if from_file else ""
        expected = f"{source}preset 'emo-gatt' is unknown.*mean 'emo-gat'"
        with pytest.raises(ConfigError, match=expected) as caught:
            load_config(*([] if from_file else ["emo-gatt"]), file=file if from_file else None)
        assert from_file or str(caught.value).startswith("preset")


def load_text(tmp_path, text):
    file = tmp_path / "run.toml"
    file.write_text(text)
    return load_config(file=file)


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "[trainin]\nepochs = 3",
                "run.toml: unknown setting 'trainin'; did you mean 'training'",
            ),
            ("[training]\nepoch = 3", "unknown setting 'training.epoch'; did you mean 'epochs'"),
            (
                "[training]\nqqqqqq = 3",
                "unknown setting 'training.qqqqqq'; there are 'epochs', 'ba",
            ),
            ('[graph]\nconv = "gatt"', "graph.conv is 'gatt'; did you mean 'gat'"),
            ('[loss]\nranking = "zzz"', r"loss.ranking is 'zzz'; there are 'bpr', 'softmax'"),
            ("[graph]\nconv = 3", "graph.conv is 3; there are 'none', 'sage', 'gat'"),
            ("training = 3", "'training' is a section, write training.key"),
            ("[data.dataset]\nx = 3", "data.dataset must be a text, got {'x': 3}"),
            ('[training]\nepochs = "3"', "training.epochs must be a whole number, got '3'"),
            ("[training]\nepochs = 3.5", "training.epochs must be a whole number, got 3.5"),
            ("[training]\nepochs = true", "training.epochs must be a whole number, got True"),
            ('[training]\nlearning_rate = "x"', "training.learning_rate must be a number, got 'x'"),
            ("[training]\nlearning_rate = true", "learning_rate must be a number, got True"),
            ("[graph]\nsigned = 1", "graph.signed must be true or false, got 1"),
            ("[training]\ndevice = 0", "training.device must be a text, got 0"),
        ],
    )
    def test_names_and_types(self, tmp_path, text, message):
        with pytest.raises(ConfigError, match=message):
            load_text(tmp_path, text)

    def test_a_whole_number_is_a_number(self, tmp_path):
        rate = load_text(tmp_path, "[training]\nlearning_rate = 1").training.learning_rate
        assert rate == 1.0
        assert isinstance(rate, float)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("training.epochs=-1", "training.epochs must be at least 0, got -1"),
            ("training.seed=-1", "training.seed must be at least 0, got -1"),
            ("training.learning_rate=0", "training.learning_rate must be positive, got 0"),
            ("training.learning_rate=nan", "training.learning_rate must be finite, got nan"),
            ("sequence.window=-1", "sequence.window must be positive, got -1"),
            ("sequence.layers=-1", "sequence.layers must be at least 0, got -1"),
            ("sequence.dropout=1.5", "sequence.dropout must be below 1, got 1.5"),
            ("sequence.dropout=-1.1", "sequence.dropout must be at least -1, got -1.1"),
            ("sequence.dropout=1", "sequence.dropout must be below 1, got 1"),
            (
                "training.learning_rate=1" + 400 * "0",
                "training.learning_rate must be a number, got .a number of 1329 bits",
            ),
            ("training.learning_rate=inf", "training.learning_rate must be finite, got inf"),
            ("graph.half_life=-1", "graph.half_life must be at least 0, got -1"),
            ("graph.half_life=nan", "graph.half_life must be finite, got nan"),
            ("graph.half_life=inf", "graph.half_life must be finite, got inf"),
            ("loss.use_negatives=nan", "loss.use_negatives must be at most 1, got nan"),
            ("split.quantile=1", "split.quantile must be below 1, got 1"),
            ("split.days=-1", "split.days must be at least 0, got -1"),
            ("split.gap=inf", "split.gap must be finite, got inf"),
            ("evaluation.k=0", "evaluation.k must be at least 1, got 0"),
            ("model.embedding_size=0", "model.embedding_size must be at least 1, got 0"),
            (
                "model.embedding_size=1000000000",
                "model.embedding_size must be at most 16,384, got 1000000000",
            ),
            ("graph.paths=10001", "graph.paths must be at most 10,000, got 10001"),
            ("graph.layers=65", "graph.layers must be at most 64, got 65"),
            ("graph.heads=257", "graph.heads must be at most 256, got 257"),
            ("sequence.layers=65", "sequence.layers must be at most 64, got 65"),
            ("sequence.heads=257", "sequence.heads must be at most 256, got 257"),
            ("sequence.max_length=100001", "sequence.max_length must be at most 100,000"),
            ("loss.negatives=-2", "loss.negatives must be at least -1, got -2"),
            ("loss.negatives=1000001", "loss.negatives must be at most 1,000,000, got 1000001"),
            ("loss.horizon=1001", "loss.horizon must be at most 1,000, got 1001"),
            ("training.epochs=1000001", "training.epochs must be at most 1,000,000, got 1000001"),
            ("training.batch_size=1000001", "training.batch_size must be at most 1,000,000"),
            ("training.threads=1025", "training.threads must be at most 1,024, got 1025"),
            ("training.refit=101", "training.refit must be at most 100, got 101"),
            (
                "evaluation.k=1000000000000000",
                "evaluation.k must be at most 10,000, got 1000000000000000",
            ),
            (
                "training.seed=-9223372036854775809",
                "training.seed must be at least 0",
            ),
        ],
    )
    def test_ranges(self, setting, message):
        with pytest.raises(ConfigError, match=f"--set {setting}: {message}"):
            load_config(settings=(setting,))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a = " + "[" * 10**5, "run.toml: is not TOML: maximum recursion depth exceeded"),
            ("a = " + "9" * 10**4, "run.toml: is not TOML: Exceeds the limit"),
            ("q" * 10**5 + " = 3", f"'{'q' * 100}...'; there are 'preset', 'data'"),
            ("preset = 0x" + "f" * 10**4, "preset 'a number of 40000 bits' is unknown"),
            (
                "[training]\nseed = 0x" + "f" * 10**4,
                r"at most 9,223,372,036,854,775,807, got a number of 40000 bits",
            ),
            ("[training]\nseed = -" + "9" * 400, "must be at least 0, got a number of 1329 bits"),
            ("[graph]\nconv = 0x" + "f" * 10**4, "graph.conv is 'a number of 40000 bits'; there"),
            ("#" * 2**17 + "\n", "run.toml: has more than 131,072 bytes, which is too much"),
        ],
        ids=["deep", "digits", "long key", "hex preset", "hex", "negative", "hex choice", "large"],
    )
    def test_what_is_too_much(self, tmp_path, text, message):
        with pytest.raises(ConfigError, match=message) as caught:
            load_text(tmp_path, text)
        assert len(str(caught.value)) < 1000

    @pytest.mark.parametrize("value", ["[" * 10**5, "9" * 10**4])
    def test_settings_that_are_too_much(self, value):
        with pytest.raises(ConfigError, match="training.seed must be a whole number, got '"):
            load_config(settings=(f"training.seed={value}",))

    @pytest.mark.parametrize(("name", "kind"), [("/dev/zero", "device"), ("/", "folder")])
    def test_what_is_no_file(self, name, kind):
        with pytest.raises(ConfigError, match=f"{name}: cannot be read: it is a {kind}"):
            load_config(file=Path(name))

    def test_a_model_that_is_larger_than_the_memory(self, monkeypatch):
        config = load_config("emo-sage-thp", settings=("model.backend=torch",))
        tensors = build_model(config, 20_000, 30_000).state_dict().values()
        size = sum(each.numel() * each.element_size() for each in tensors)
        monkeypatch.setattr("emorec.building.machine_memory", lambda: size)
        check_memory(config, 20_000, 30_000)  # what is counted is less than the whole
        message = "parameters take at least .* GiB, more than the .* of this.* .now 64"
        for users, items, copies in (
            (20_000, 200_000, 1),
            (200_000, 30_000, 1),
            (20_000, 30_000, 4),
        ):
            with pytest.raises(ConfigError, match=message):
                check_memory(config, users, items, copies=copies)

    def test_a_model_without_an_encoder(self, tmp_path):
        with pytest.raises(ConfigError, match="a model needs an encoder, or scores from the graph"):
            load_text(tmp_path, 'preset = "emo-gat"\n[graph]\nconv = "none"')

    def test_a_start_from_the_log_needs_embeddings(self):
        with pytest.raises(ConfigError, match="model.start is 'log', which needs the item embed"):
            load_config("emorec-graph", settings=("model.start=log",))

    @pytest.mark.parametrize("conv", ["sage", "gat"])
    def test_paths_go_with_sums_or_alone(self, conv):
        with pytest.raises(ConfigError, match=f"graph.paths is 100, which goes .* got '{conv}'"):
            load_config("emorec", settings=(f"graph.conv={conv}",))
        load_config("emorec", settings=("graph.conv=none",))

    @pytest.mark.parametrize("name", ["graph.heads", "sequence.heads"])
    def test_heads_share_the_width(self, name):
        settings = "graph.conv=gat", "graph.paths=0", f"{name}=5"
        with pytest.raises(ConfigError, match=f"{name} is 5, which must divide .*size, 64"):
            load_config("emorec", settings=settings)

    def test_a_log_without_an_order_has_no_times(self):
        message = "data.order is 'none', which needs data.time_column '' .* got 'timestamp'"
        with pytest.raises(ConfigError, match=message):
            load_config(settings=("data.order=none",))
        settings = "data.order=none", "data.time_column=", "sequence.layers=0"
        assert load_config("emorec-graph", settings=settings).data.order == "none"

    def test_a_graph_that_informs_the_polarity_needs_one(self):
        message = "graph.informs is 'polarity', which needs .* of at least 1, got 'none' and 1"
        with pytest.raises(ConfigError, match=message):
            load_config("emo-sage-thp", settings=("graph.informs=polarity",))
        settings = "graph.informs=polarity", "model.polarity=next"
        assert load_config("emo-sage-thp", settings=settings).graph.informs == "polarity"

    def test_bpr_draws_no_negatives_for_a_softmax(self):
        message = "loss.negatives is 256, which needs loss.ranking 'softmax', got 'bpr'; loss.use_"
        with pytest.raises(ConfigError, match=message):
            load_config("emo-sage-thp", settings=("loss.negatives=256",))
        for negatives in (-1, 0):
            load_config("emo-sage-thp", settings=(f"loss.negatives={negatives}",))

    @pytest.mark.parametrize("name", ["days", "gap"])
    def test_days_need_a_time_split(self, name):
        message = f"split.{name} is 2, which needs split.method 'time', got 'leave_last_out'"
        with pytest.raises(ConfigError, match=message):
            load_config(settings=(f"split.{name}=2",))
        assert load_config(settings=(f"split.{name}=2", "split.method=time")).split.rule[name] == 2

    def test_attention_has_no_half_life(self, tmp_path):
        message = "graph.half_life is 7.0, which needs the means of graph.conv 'sage', got 'gat'"
        with pytest.raises(ConfigError, match=message):
            load_text(tmp_path, 'preset = "emo-gat"\n[graph]\nhalf_life = 7')

    def test_half_life_reaches_the_graph_encoder(self):
        config = load_config("emo-sage-thp", settings=("graph.half_life=7", "model.backend=torch"))
        assert build_model(config, num_users=3, num_items=4).graph_encoder.half_life == 7

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            (
                'polarity = "item"',
                "model.polarity is 'item', which is predicted from a user's events and needs",
            ),
        ],
    )
    def test_what_looks_at_events_needs_a_sequence_encoder(self, tmp_path, setting, message):
        with pytest.raises(ConfigError, match=f"{message} sequence.layers"):
            load_text(tmp_path, f'preset = "emo-gat"\n[model]\n{setting}')

    @pytest.mark.parametrize(
        ("preset", "setting", "message"),
        [
            ("emo-gat", "sequence.layers=0", "needs sequence.layers of at least 1, got 0"),
            ("emorec", "data.time_column=", "needs a log with times: set data.time_column"),
        ],
    )
    def test_what_the_time_of_the_request_needs(self, preset, setting, message):
        with pytest.raises(ConfigError, match=f"sequence.request_time is true, which {message}"):
            load_config(preset, settings=("sequence.request_time=true", setting))

    @pytest.mark.parametrize("setting", ["graph.signed=true", "graph.half_life=7"])
    def test_sums_have_signs_and_decay_of_their_own(self, setting):
        with pytest.raises(ConfigError, match="graph.conv is 'sum', which has signs and a decay"):
            load_config("emorec-graph", settings=(setting,))

    def test_signs_need_negative_relations(self, tmp_path):
        with pytest.raises(ConfigError, match="graph.signed needs graph.feedback_nodes"):
            load_text(tmp_path, 'preset = "diff-gat"\n[graph]\nfeedback_nodes = false')


class TestSettings:
    @pytest.mark.parametrize(
        ("setting", "name", "value"),
        [
            ("training.epochs=20", "training.epochs", 20),
            (" training.epochs = 20 ", "training.epochs", 20),
            ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),
            ("sequence.window=inf", "sequence.window", float("inf")),
            ("graph.signed=true", "graph.signed", True),
            ("graph.conv=gat", "graph.conv", "gat"),
            ('graph.conv="gat"', "graph.conv", "gat"),
            ("data.dataset=my=log file.csv", "data.dataset", "my=log file.csv"),
            ("data.rules=", "data.rules", ""),
        ],
    )
    def test_values(self, setting, name, value):
        assert flat(Config().with_settings(setting))[name] == value

    @pytest.mark.parametrize(
        "setting", ["epochs=3", "training.epochs", "training.a.b=3", "preset=emorec", "", "="]
    )
    def test_malformed(self, setting):
        with pytest.raises(ConfigError, match="must look like section.key=value"):
            Config().with_settings(setting)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("training.epoch=3", "--set training.epoch=3: unknown setting 'training.epoch'"),
            ("trainin.epochs=3", "unknown setting 'trainin'; did you mean 'training'"),
            ("training.epochs=many", "training.epochs must be a whole number, got 'many'"),
            ("preset.x=3", "preset must be a text"),
        ],
    )
    def test_wrong(self, setting, message):
        with pytest.raises(ConfigError, match=message):
            Config().with_settings(setting)

    def test_the_wrong_one_is_named(self):
        right = "data.user_column=u", "training.epochs=2"
        for wrong, message in (
            ("trainin.epochs=1", "^--set trainin.epochs=1: unknown setting 'trainin'"),
            ("training.seed=-1", "^--set training.seed=-1: training.seed must be at least 0"),
        ):
            with pytest.raises(ConfigError, match=message):
                load_config(settings=(right[0], wrong, right[1]))
        pair = "model.embedding_size=9", "sequence.heads=2"
        with pytest.raises(ConfigError, match="^--set model.embedding_size=9: sequence.heads is 2"):
            load_config(settings=pair)

    def test_are_taken_together_in_any_order(self):
        settings = ("model.polarity=none", "model.aversion=0", "graph.paths=0")
        for order in itertools.permutations(settings):
            config = load_config(settings=order)
            assert (config.model.polarity, config.model.aversion) == ("none", 0)
        with pytest.raises(ConfigError, match="model.polarity=none .*: model.aversion is 1.0"):
            load_config(settings=(settings[0], settings[2]))
        with pytest.raises(ConfigError, match="^--set training.epochs=-1: training.epochs must"):
            load_config(settings=("training.seed=1", "training.epochs=-1"))

    def test_the_later_of_two_wins(self):
        config = load_config(settings=("training.epochs=3", "training.epochs=4"))
        assert config.training.epochs == 4
