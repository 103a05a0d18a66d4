"""Random inputs of the Hawkes attention, and the comparison of two precisions of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from emorec.ops.hawkes_attention import hawkes_attention

DAY = 86_400


@dataclass(frozen=True)
class Inputs:
    """Arguments of `hawkes_attention`, and the gradient that its output gets."""

    query: Tensor
    key: Tensor | None
    value: Tensor
    time: Tensor
    position: Tensor
    cu_seqlens: Tensor
    decay_rate: Tensor
    upstream: Tensor  # [T, H, Dv]

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same, the floats (not the times) in another precision."""
        return replace(
            self,
            query=self.query.to(dtype),
            key=None if self.key is None else self.key.to(dtype),
            value=self.value.to(dtype),
            decay_rate=self.decay_rate.to(torch.promote_types(dtype, torch.float32)),
            upstream=self.upstream.to(dtype),
        )

    def run(self, backend: str, **options: Any) -> dict[str, Tensor]:
        """Output and every gradient."""
        leaves = {
            name: getattr(self, name).clone().requires_grad_()
            for name in ("query", "key", "value", "decay_rate")
            if getattr(self, name) is not None
        }
        output = hawkes_attention(
            leaves["query"],
            leaves.get("key"),
            leaves["value"],
            self.time,
            self.position,
            self.cu_seqlens,
            leaves["decay_rate"],
            backend=backend,
            **options,
        )
        upstream = self.upstream[:, 0] if options.get("sum_heads") else self.upstream
        grads = torch.autograd.grad(output, list(leaves.values()), upstream)
        return {"output": output.detach(), **dict(zip(leaves, grads, strict=True))}


def make_inputs(
    lengths: list[int],
    heads: int = 2,
    size: int = 16,
    value_size: int | None = None,
    *,
    head_scores: bool = False,
    with_key: bool = False,
    gap: Callable[[Tensor], Tensor] = lambda uniform: (uniform * 2 * DAY).round(),
    magnitude: float = 1.0,
    rate: float = 1e-6,
    seed: int = 0,
) -> Inputs:
    """Sequences of the given lengths in float64; times are int64 seconds, some 50 years on."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens = sum(lengths)
    query_shape = (tokens, heads, size) if head_scores else (tokens, size)
    time = [
        1_600_000_000 + gap(torch.rand(n, generator=generator, dtype=torch.float64)).cumsum(0)
        for n in lengths
    ]
    value_size = size if value_size is None else value_size
    return Inputs(
        query=normal(*query_shape) * magnitude,
        key=normal(*query_shape) * magnitude if with_key else None,
        value=normal(tokens, heads, value_size),
        time=torch.cat([*time, torch.empty(0, dtype=torch.float64)]).long(),
        position=torch.cat([torch.arange(n) for n in [*lengths, 0]]),
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0),
        decay_rate=rate * 3.0 ** torch.arange(heads, dtype=torch.float64),
        upstream=normal(tokens, heads, value_size),
    )


# Where sums nearly cancel, the reference's own error is a matter of luck and may be 0. A result may
# therefore always be off by a few units in the last place of the largest number of its array, or of
# 1, the size of the inputs: 32 in float32, 1 in bfloat16, which is rounded once more on output. In
# float64 the reference itself is the truth. The limit of a decay rate's gradient, one number from
# all pairs, is ten times as large.
FLOOR = {torch.float64: 1e-12, torch.float32: 32 * 2.0**-23, torch.bfloat16: 2.0**-8}


def assert_as_accurate_as_reference(
    inputs: Inputs | list[Inputs], dtype: torch.dtype, **options: Any
) -> None:
    """Asserts small errors of the fused operator in a precision, against float64 throughout.

    Its error, the largest over an array, may be twice that of the reference in the same precision
    for the output and three times for gradients; see FLOOR. Of several inputs errors are added.
    """
    errors: dict[str, float] = {}
    limits: dict[str, float] = {}
    for one in inputs if isinstance(inputs, list) else [inputs]:
        given = one.to(dtype)
        exact = given.to(torch.float64).run("reference", **options)
        reference = given.run("reference", **options)
        fused = given.run("fused", **options)
        assert fused.keys() == exact.keys()
        for name, truth in exact.items():
            assert (
                fused[name].shape == reference[name].shape
                and fused[name].dtype == reference[name].dtype
            )
            if not truth.numel():
                continue
            factor = 2 if name == "output" else 3
            floor = FLOOR[dtype] * (10 if name == "decay_rate" else 1)
            largest = max(1.0, float(truth.abs().max()))
            reference_error = float((reference[name].double() - truth).abs().max())
            error = float((fused[name].double() - truth).abs().max())
            limits[name] = limits.get(name, 0.0) + max(factor * reference_error, floor * largest)
            errors[name] = errors.get(name, 0.0) + error
    for name, error in errors.items():
        assert error <= limits[name], f"{name}: {error:.3g}, allowed {limits[name]:.3g}"
