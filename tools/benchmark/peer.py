"""The comparison: the same model in transformers, with the loops that people write today
for generating, recording and replaying a KV cache. sdpa attention, DynamicCache, greedy.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # read at import

import torch
import transformers
from kvtool import model_source
from transformers import DynamicCache

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


class Peer:
    def __init__(self, model: str, gguf: str | None, dtype: str):
        source = model_source.resolve(model, gguf, None, None)
        config = model_source.read_config(source)
        self._model = model_source.load(source, config, getattr(torch, dtype)).model
        # Loaded with eager attention for the exporter; this is the fast one.
        self._model.set_attn_implementation("sdpa")
        self.generate([[3, 4, 5]], 4)  # the first calls are slower than the rest

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], new_tokens: int) -> tuple[list[list[int]], float]:
        """Tokens of every row, and seconds per step."""
        return self._generate(prompts, new_tokens, lambda step, cache: None)

    @torch.inference_mode()
    def record(self, prompts: list[list[int]], new_tokens: int, folder: Path) -> float:
        """Seconds per step of generating when every step's new rows are cloned and saved."""
        folder.mkdir(parents=True)

        def save(step: int, cache: DynamicCache) -> None:
            if step < 0:
                rows = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
            else:
                rows = [
                    (layer.keys[:, :, -1:].clone(), layer.values[:, :, -1:].clone())
                    for layer in cache.layers
                ]
            torch.save(rows, folder / f"step_{step}.pt")

        return self._generate(prompts, new_tokens, save)[1]

    @torch.inference_mode()
    def replay(self, prompts: list[list[int]], tokens: list[list[int]], folder: Path) -> float:
        """Seconds per step when every step runs on the rows that record() saved, one by one
        loaded and concatenated to the cache in place of the step's own."""
        cache = DynamicCache(config=self._model.config)
        for layer, (key, value) in enumerate(torch.load(folder / "step_-1.pt")):
            cache.update(key, value, layer)
        matches = 0
        start = time.perf_counter()
        steps = len(tokens[0]) - 1
        for step in range(steps):
            inputs = torch.tensor([[row[step]] for row in tokens])
            logits = self._model(inputs, past_key_values=cache, use_cache=True).logits[:, -1]
            matches += int((logits.argmax(-1) == torch.tensor([r[step + 1] for r in tokens])).sum())
            rows = torch.load(folder / f"step_{step}.pt")
            for layer, (key, value) in zip(cache.layers, rows):
                layer.keys = torch.cat([layer.keys[:, :, :-1], key], dim=-2)
                layer.values = torch.cat([layer.values[:, :, :-1], value], dim=-2)
        seconds = (time.perf_counter() - start) / steps
        if matches != steps * len(tokens):
            raise RuntimeError(
                f"the peer's replay matches {matches} of {steps * len(tokens)} tokens"
            )
        return seconds

    def _generate(self, prompts, new_tokens: int, observe) -> tuple[list[list[int]], float]:
        cache = DynamicCache(config=self._model.config)
        inputs = torch.tensor(prompts)
        generated = []
        start = 0.0
        for step in range(-1, new_tokens - 1):
            if step == 0:
                start = time.perf_counter()
            output = self._model(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            inputs = output.logits[:, -1].argmax(-1, keepdim=True)
            generated.append(inputs.flatten().tolist())
            observe(step, cache)
        seconds = (time.perf_counter() - start) / (new_tokens - 1)
        return [list(row) for row in zip(*generated)], seconds


def rebuild_seconds_per_step(shapes: dict, prompt: int, steps: int, folder: Path) -> float:
    """Seconds per step of growing a cache by torch.load and torch.cat, as above but without
    a model. `shapes`: layers, heads, dim and dtype of the recording on the other side."""
    dtype = getattr(torch, shapes["dtype"])

    def rows(positions: int) -> list:
        shape = (1, shapes["heads"], positions, shapes["dim"])
        return [
            (torch.randn(shape).to(dtype), torch.randn(shape).to(dtype))
            for _ in range(shapes["layers"])
        ]

    if not folder.exists():
        folder.mkdir(parents=True)
        for step in range(steps):
            torch.save(rows(1), folder / f"step_{step}.pt")
    cache = rows(prompt)
    start = time.perf_counter()
    for step in range(steps):
        added = torch.load(folder / f"step_{step}.pt")
        cache = [
            (torch.cat([key, new_key], dim=-2), torch.cat([value, new_value], dim=-2))
            for (key, value), (new_key, new_value) in zip(cache, added)
        ]
    return (time.perf_counter() - start) / steps
