"""A mixture-of-experts forward that can be traced.

The eager loop in transformers visits the experts that the tokens at hand chose,
so a trace of it contains only those experts. The version here has no Python
branch on data: tokens are sorted by expert and multiplied group by group, with
the group boundaries in a tensor.

transformers' own `grouped_mm` counts tokens with `histc`, whose input dtype
depends on the device and which has no deterministic CUDA kernel for floats; a
file traced on one device must run on every other, hence this variant.
"""

from __future__ import annotations

import torch
from transformers.integrations.moe import ExpertsInterface

EXPERTS_IMPLEMENTATION = "kvtool_grouped"


def _grouped_linear(x, weight, ends, bias, is_transposed):
    """`x` [N, in] sorted by expert, `weight` [E, out, in] (or [E, in, out] when
    transposed), `ends` i32[E] exclusive end row of each expert, `bias` [N, out] or
    None. Returns [N, out]."""
    if not is_transposed:
        weight = weight.transpose(-2, -1)
    y = torch.nn.functional.grouped_mm(x.to(weight.dtype), weight, offs=ends)
    return y if bias is None else y + bias


def grouped_experts_forward(
    self: torch.nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """Same contract as the experts' eager `forward` in transformers.

    hidden_states [T, D]; top_k_index i64[T, K]; top_k_weights [T, K]; returns [T, D].
    """
    num_top_k = top_k_index.size(-1)
    # Stable, so that the order of equal keys, and with it the order of sums, is fixed.
    expert_ids, order = torch.sort(top_k_index.reshape(-1), stable=True)
    x = hidden_states[order // num_top_k]

    experts = torch.arange(self.num_experts, device=expert_ids.device)
    ends = (expert_ids[None, :] <= experts[:, None]).sum(dim=1, dtype=torch.int32)

    def biases(name):
        return getattr(self, name)[expert_ids] if self.has_bias else None

    first = "gate_up_proj" if self.has_gate else "up_proj"
    x = _grouped_linear(x, getattr(self, first), ends, biases(first + "_bias"), self.is_transposed)
    x = self._apply_gate(x) if self.has_gate else self.act_fn(x)
    x = _grouped_linear(x, self.down_proj, ends, biases("down_proj_bias"), self.is_transposed)

    x = x * top_k_weights.reshape(-1)[order].unsqueeze(-1)
    x = x[torch.argsort(order)]
    x = x.reshape(-1, num_top_k, hidden_states.size(-1)).sum(dim=1)
    return x.to(hidden_states.dtype)


def register() -> None:
    """Makes the implementation known to transformers under EXPERTS_IMPLEMENTATION."""
    ExpertsInterface.register(EXPERTS_IMPLEMENTATION, grouped_experts_forward)
