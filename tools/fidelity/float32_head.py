"""tools/export_model.py for a Llama whose head computes and returns float32 over 16-bit layers."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

import torch  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from kvtool import export  # noqa: E402


class Float32Head(torch.nn.Linear):
    def forward(self, hidden):
        return torch.nn.functional.linear(hidden.float(), self.weight.float())


def with_float32_head(construct):
    def __init__(self, config):
        construct(self, config)
        self.lm_head = Float32Head(config.hidden_size, config.vocab_size, bias=False)

    return __init__


LlamaForCausalLM.__init__ = with_float32_head(LlamaForCausalLM.__init__)

if __name__ == "__main__":
    sys.exit(export.main())
