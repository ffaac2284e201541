"""The rows, in the order in which they run. A new one is a function and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import baseline_rows, format_rows, model_rows, paging_rows, policy_rows
from .results import Line
from .workspace import Workspace


@dataclass(frozen=True)
class Row:
    name: str
    about: str
    measure: Callable[[Workspace], list[Line]]


ROWS = [
    Row(
        "decode-bf16", "time per token, against the Python loop", model_rows.decode("bfloat16", 1.4)
    ),
    Row("save", "what recording adds to generating", model_rows.save(1)),
    Row("save-batch", "the same in a batch", model_rows.save(None)),
    Row("replay", "a step of a replay against one of generating", model_rows.replay),
    Row("parallel", "replaying all steps in one pass", model_rows.parallel),
    Row(
        "rebuild", "the cache at every step, against torch.load and torch.cat", format_rows.rebuild
    ),
    Row("context", "what a step costs at 4096 positions against 512", model_rows.context),
    Row("policies", "a step under a cache policy, at 1024 positions", policy_rows.policies),
    Row("paging", "which pages stay, and which come back ahead of their use", paging_rows.paging),
    Row("size", "file size; packing", format_rows.size),
    Row("info", "info and single steps of a 10 GB recording", format_rows.info),
    Row("memory", "peak memory of a replay", model_rows.memory),
    Row("baseline", "this binary against that of --baseline", baseline_rows.baseline),
    Row("llama-cpp", "saving llama.cpp's state after every step", model_rows.llama_cpp),
    # Last: it loads another model.
    Row("decode-f32", "time per token in float32", model_rows.decode("float32", 1.15)),
]
