from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from emorec.ops.hawkes_attention import hawkes_attention, hawkes_attention_ref

YEAR_MS = 365 * 86_400_000


def by_formula(
    query,
    key,
    value,
    time,
    position,
    cu_seqlens,
    decay_rate,
    *,
    window=math.inf,
    decay="multiplicative",
    causal=True,
    scale=None,
    mask_self=False,
):
    """The module's formula with loops, in float64; time as exact Python integers."""
    num_heads = value.shape[1]
    key = query if key is None else key
    q, k, v = (tensor.detach().double().numpy() for tensor in (query, key, value))
    if q.ndim == 2:
        q, k = (np.repeat(x[:, None], num_heads, axis=1) for x in (q, k))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    t, p, rate = time.tolist(), position.tolist(), decay_rate.tolist()
    out = np.zeros(v.shape)
    for start, stop in itertools.pairwise(cu_seqlens.tolist()):
        for i, h in itertools.product(range(start, stop), range(num_heads)):
            scores, seen = [], []
            for j in range(start, i + 1 if causal else stop):
                if mask_self and i == j:
                    continue
                s = scale * sum(q[i, h] * k[j, h])
                exponent = rate[h] * max(0, t[i] - t[j]) + abs(p[i] - p[j]) / window
                scores.append(
                    s * math.exp(-exponent) if decay == "multiplicative" else s - exponent
                )
                seen.append(j)
            if seen:
                weights = np.exp(np.array(scores) - max(scores))
                out[i, h] = weights / weights.sum() @ v[seen, h]
    return out


def random_inputs(lengths=(3, 1, 4), num_heads=2, size=3, per_head=False, with_key=False, seed=0):
    """Random inputs in float64; times are milliseconds of int64, not sorted."""
    generator = torch.Generator().manual_seed(seed)
    num_tokens = sum(lengths)
    shape = (num_tokens, num_heads, size) if per_head else (num_tokens, size)
    query = torch.randn(shape, generator=generator, dtype=torch.float64)
    return {
        "query": query,
        "key": torch.randn(shape, generator=generator, dtype=torch.float64) if with_key else None,
        "value": torch.randn(num_tokens, num_heads, 2, generator=generator, dtype=torch.float64),
        "time": torch.randint(0, 1000, (num_tokens,), generator=generator),
        "position": torch.cat([torch.arange(length) for length in lengths]),
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0),
        "decay_rate": torch.tensor([0.001, 0.01, 0.0])[:num_heads].double(),
    }


def assert_matches(inputs, **options):
    expected = by_formula(**inputs, **options)
    np.testing.assert_allclose(hawkes_attention(**inputs, **options), expected, atol=1e-12)


@pytest.mark.parametrize("decay", ["multiplicative", "additive"])
@pytest.mark.parametrize("causal", [True, False])
class TestAgainstTheFormula:
    @pytest.mark.parametrize("per_head", [True, False])
    @pytest.mark.parametrize("with_key", [True, False])
    @pytest.mark.parametrize("window", [math.inf, 2.0])
    @pytest.mark.parametrize("mask_self", [True, False])
    def test_options(self, decay, causal, per_head, with_key, window, mask_self):
        inputs = random_inputs(num_heads=3, per_head=per_head, with_key=with_key)
        assert_matches(inputs, decay=decay, causal=causal, window=window, mask_self=mask_self)

    @pytest.mark.parametrize("lengths", [(1,), (2,), (3,), (63,), (0, 2), (2, 0, 1, 0), (5, 1, 8)])
    def test_lengths(self, decay, causal, lengths):
        assert_matches(random_inputs(lengths), decay=decay, causal=causal, window=3.0)

    def test_scale(self, decay, causal):
        assert_matches(random_inputs(), decay=decay, causal=causal, scale=0.3)

    @pytest.mark.parametrize(
        "times",
        [[7, 7, 7, 7], [0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 100 * YEAR_MS, 100 * YEAR_MS + 1]],
    )
    @pytest.mark.parametrize("start", [0, 1_700_000_000_000])
    def test_gaps(self, decay, causal, times, start):
        inputs = random_inputs((4,))
        inputs["time"] = start + torch.tensor(times)
        inputs["decay_rate"] = torch.tensor([0.7, 1e-13], dtype=torch.float64)
        assert_matches(inputs, decay=decay, causal=causal)

    def test_one_millisecond_matters_in_float32(self, decay, causal):
        # As float32 both times are the same number.
        inputs = random_inputs((2,))
        inputs["time"] = 1_700_000_000_000 + torch.tensor([0, 1])
        inputs["decay_rate"] = torch.tensor([0.7, 2.0])
        single = {name: x.float() for name, x in inputs.items() if name in ("query", "value")}
        found = hawkes_attention(**(inputs | single), decay=decay, causal=causal)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(
            found, by_formula(**inputs, decay=decay, causal=causal), atol=1e-5
        )
        days = inputs | single | {"time": inputs["time"].double() / 86_400_000}
        days["decay_rate"] = inputs["decay_rate"] * 86_400_000
        found = hawkes_attention(**days, decay=decay, causal=causal)
        # float64 days are good to a microsecond so far from the epoch.
        expected = by_formula(**inputs, decay=decay, causal=causal)
        np.testing.assert_allclose(found, expected, atol=1e-3)

    @pytest.mark.parametrize("mask_self", [True, False])
    @pytest.mark.parametrize("per_head", [True, False])
    @pytest.mark.parametrize("with_key", [True, False])
    def test_gradients(self, decay, causal, mask_self, per_head, with_key):
        inputs = random_inputs((3, 1, 0, 2), per_head=per_head, with_key=with_key)
        names = [n for n in ("query", "key", "value", "decay_rate") if inputs[n] is not None]
        for name in names:
            inputs[name].requires_grad_()

        def run(*tensors):
            changed = inputs | dict(zip(names, tensors, strict=True))
            return hawkes_attention(
                **changed, decay=decay, causal=causal, window=2.0, mask_self=mask_self
            )

        assert torch.autograd.gradcheck(run, tuple(inputs[name] for name in names))

    def test_sequences_are_independent(self, decay, causal):
        both = random_inputs((3, 4))
        alone = {
            name: x[3:] if torch.is_tensor(x) and len(x) == 7 else x for name, x in both.items()
        }
        alone["cu_seqlens"] = torch.tensor([0, 4])
        together = hawkes_attention(**both, decay=decay, causal=causal)[3:]
        torch.testing.assert_close(hawkes_attention(**alone, decay=decay, causal=causal), together)


class TestLimits:
    """One old, one new token; two heads, of which the second never forgets."""

    def weight_of_old(self, decay, gap):
        inputs = random_inputs((2,))
        inputs["query"] = torch.tensor([[2.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
        inputs["key"] = torch.tensor([[3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
        inputs["value"] = torch.zeros(2, 2, 1, dtype=torch.float64)
        inputs["value"][0] = 1
        inputs["time"] = torch.tensor([0, gap])
        inputs["decay_rate"] = torch.tensor([1.0, 0.0], dtype=torch.float64)
        return hawkes_attention(**inputs, decay=decay, scale=1.0)[1, :, 0].tolist()

    def test_no_gap(self):
        undecayed = math.exp(3) / (math.exp(3) + 1)
        for decay in ("multiplicative", "additive"):
            assert self.weight_of_old(decay, 0) == pytest.approx([undecayed] * 2)

    def test_multiplicative_tends_to_a_neutral_key(self):
        forgetting, never = self.weight_of_old("multiplicative", 10**12)
        assert forgetting == pytest.approx(0.5)  # its score is 0, like the other's
        assert never == pytest.approx(math.exp(3) / (math.exp(3) + 1))

    def test_additive_tends_to_nothing(self):
        forgetting, never = self.weight_of_old("additive", 10**12)
        assert forgetting == 0
        assert never == pytest.approx(math.exp(3) / (math.exp(3) + 1))


class TestMasks:
    @pytest.mark.parametrize("decay", ["multiplicative", "additive"])
    def test_a_later_token_changes_no_earlier_output(self, decay):
        inputs = random_inputs((6,), with_key=True)
        before = hawkes_attention(**inputs, decay=decay)
        for name in ("query", "key", "value", "time", "position"):
            inputs[name] = inputs[name].clone()
            inputs[name][4:] += 5
        after = hawkes_attention(**inputs, decay=decay)
        assert torch.equal(before[:4], after[:4])
        assert not torch.allclose(before[4:], after[4:])

    @pytest.mark.parametrize("decay", ["multiplicative", "additive"])
    def test_token_without_keys_gets_zeros(self, decay):
        inputs = random_inputs((1, 2, 3))
        found = hawkes_attention(**inputs, decay=decay, mask_self=True)
        assert found[[0, 1, 3]].abs().sum() == 0  # each sequence's first
        torch.testing.assert_close(found[2], inputs["value"][1])  # its only choice
        assert torch.isfinite(found).all()

    def test_single_token_attends_to_itself(self):
        inputs = random_inputs((1,))
        torch.testing.assert_close(hawkes_attention(**inputs), inputs["value"])

    def test_huge_gap_and_mask_give_no_nan(self):
        inputs = random_inputs((3,))
        inputs["time"] = torch.tensor([0, 100 * YEAR_MS, 200 * YEAR_MS])
        inputs["decay_rate"] = torch.tensor([1e6, 1e6], dtype=torch.float64)
        for decay, mask_self in itertools.product(("multiplicative", "additive"), (True, False)):
            found = hawkes_attention(**inputs, decay=decay, mask_self=mask_self)
            assert torch.isfinite(found).all()


def test_inputs_need_not_be_contiguous():
    inputs = random_inputs(per_head=True, with_key=True)
    expected = hawkes_attention(**inputs)
    strided = {
        name: torch.stack([x, x], dim=-1)[..., 0] if torch.is_tensor(x) else x
        for name, x in inputs.items()
    }
    assert not strided["query"].is_contiguous()
    torch.testing.assert_close(hawkes_attention(**strided), expected)


@pytest.mark.parametrize("cu_seqlens", [[0], [0, 0], [0, 0, 0]])
def test_no_tokens(cu_seqlens):
    inputs = random_inputs((0,)) | {"cu_seqlens": torch.tensor(cu_seqlens)}
    assert hawkes_attention(**inputs).shape == (0, 2, 2)


def test_the_reference_has_the_same_defaults():
    own, twin = (
        {name: each.default for name, each in inspect.signature(function).parameters.items()}
        for function in (hawkes_attention, hawkes_attention_ref)
    )
    assert own.pop("backend") == "auto"
    assert twin == own


@pytest.mark.parametrize(("dropout", "seed"), [(0.0, None), (0.5, None), (0.5, 3)])
def test_the_reference_needs_no_values_of_a_single_sequence(dropout, seed):
    # torch.export has none.
    with FakeTensorMode() as mode:
        inputs = random_inputs((5,), with_key=True)
        inputs = {name: mode.from_tensor(each) for name, each in inputs.items()}
        assert hawkes_attention_ref(**inputs, dropout=dropout, seed=seed).shape == (5, 2, 2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("value", torch.zeros(8, 2), r"value must be \[T, H, Dv\], got \[8, 2\]"),
        ("query", torch.zeros(7, 3), r"query must be .* T = 8, got \[7, 3\]"),
        ("query", torch.zeros(8), r"query must be .* got \[8\]"),
        ("query", torch.zeros(8, 3, 3), "query has 3 heads, value has 2"),
        ("key", torch.zeros(8, 4), r"key \[8, 4\] must have the shape of query \[8, 3\]"),
        ("time", torch.zeros(8), "time must be int64 or float64.*float32"),
        ("time", torch.zeros(9, dtype=torch.int64), r"time must be .*\[8\], got .*\[9\]"),
        ("position", torch.zeros(8), "position must be int.*float32"),
        ("cu_seqlens", torch.tensor(0), r"cu_seqlens must be \[B \+ 1\], got \[\]"),
        ("cu_seqlens", torch.tensor([1, 8]), "cu_seqlens must go from 0 to T = 8, got 1 to 8"),
        ("cu_seqlens", torch.tensor([0, 5]), "cu_seqlens must go from 0 to T = 8, got 0 to 5"),
        ("cu_seqlens", torch.tensor([0, 5, 3, 8]), r"must not fall, got tensor\(\[0, 5, 3, 8\]\)"),
        ("decay_rate", torch.tensor([0.1, -0.5]), "decay_rate must be at least 0, got -0.5"),
        ("window", torch.tensor([2.0, -1.0]), "window must be positive, got -1"),
        ("decay_rate", torch.zeros(3), r"decay_rate must be \[2\], got \[3\]"),
        ("window", 0.0, "window must be positive, got 0.0"),
        ("window", math.nan, "window must be positive, got nan"),
        ("decay", "linear", "'multiplicative' or 'additive', got 'linear'"),
        ("backend", "cuda", "'auto', 'reference' or 'fused', got 'cuda'"),
    ],
)
def test_invalid_arguments_raise(name, value, message):
    with pytest.raises(ValueError, match=message):
        hawkes_attention(**(random_inputs() | {name: value}))
