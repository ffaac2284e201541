"""--kv-cache window, quest and the other selectors against transformers with an attention that
sees what docs/caches.md says: loops over queries and K/V heads, written without the engine's code.
"""

import functools
import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

NEW_TOKENS = 40
SPECS = [
    "window:sinks=2,recent=6",
    "window:sinks=0,recent=9",
    "quest:page=4,budget=4,sinks=1,recent=1,dense=0",
    "quest:page=3,budget=50%,sinks=0,recent=2,dense=1",
    "mean-key:page=4,budget=3,sinks=0,recent=1,dense=0",
    "mean-deviation:page=4,budget=3,sinks=0,recent=1,dense=0",
    "mass:page=4,budget=3,sinks=0,recent=1,dense=0",
    "paged:page=3,device=12,select=window,budget=4,sinks=1,recent=1,dense=1",
    "paged:page=4,device=6,select=window,budget=30%,sinks=0,recent=1,dense=0",
]
# How a page is ranked does not depend on the family, and all of it is seen on llama: grouped heads.
# The others differ in what a query sees and in what attention makes of it: one K/V head for all;
# windows, soft cap and a scale of its own; windows, sinks and experts; values of another size than
# keys. The mass of a page depends on these, too.
FAMILIES = ["gpt_bigcode", "gemma2", "gpt_oss", "deepseek_v3"]
CASES = [("llama", spec) for spec in SPECS] + [
    (family, spec) for family in FAMILIES
    for spec in SPECS if spec.startswith(("window:sinks=2", "quest:page=4", "mass"))]


def options_of(spec):
    policy, _, rest = spec.partition(":")
    options = {"policy": policy, "sinks": 0, "dense": 0}
    for part in rest.split(","):
        name, _, value = part.partition("=")
        options[name] = int(value) if value.isdigit() else value
    return options | {"policy": options.get("select", policy)}


def page_score(policy, queries, keys):
    """Of queries [group, dim] and the keys [page, dim] of a page, the highest of the group."""
    if policy == "quest":
        return np.maximum(queries * keys.max(0), queries * keys.min(0)).sum(1).max()
    score = queries @ keys.mean(0)
    if policy == "mean-deviation":
        score = score + np.abs(queries) @ keys.std(0)
    return score.max()


def seen_keys(options, queries, keys, visible, weights):
    """Which of `visible` (ascending, the last is the query's own) a step sees. weights [group,
    positions]: what attention over all of `visible` gives."""
    page, policy = options["page"], options["policy"]
    last, first = visible[-1] // page, visible[0] // page
    pages = last - first + 1
    budget = options["budget"]
    if isinstance(budget, str):
        budget = -(-pages * int(budget[:-1]) // 100)
    if pages <= budget:
        return visible
    always = {each for each in range(first, last + 1)
              if each < options["sinks"] or each > last - options["recent"]}
    scores = []
    for each in range(first, last + 1):
        if each in always or each * page < visible[0]:
            continue
        part = slice(each * page, (each + 1) * page)
        score = (weights[:, part].sum() if policy == "mass" else each if policy == "window" else
                 page_score(policy, queries, keys[part]))
        scores.append((-score, each))
    chosen = {each for _, each in sorted(scores)[:max(0, budget - len(always))]}
    return [key for key in visible if key // page in always | chosen]


class Selection:
    """An attention for transformers; `prompt` positions see all but what a window hides."""

    def __init__(self, spec, prompt):
        self._options = options_of(spec)
        self._prompt = prompt

    def __call__(self, module, query, key, value, attention_mask, scaling, softcap=None,
                 s_aux=None, **kwargs):
        q, k, v = (each[0].double().numpy() for each in (query, key, value))
        mask = attention_mask[0, 0]
        output = np.zeros((q.shape[1], q.shape[0], v.shape[2]))
        group = q.shape[0] // k.shape[0]
        for row in range(q.shape[1]):
            position = k.shape[1] - q.shape[1] + row
            visible = [key for key in range(position + 1) if mask[row, key] == 0]
            for head in range(k.shape[0]):
                heads = slice(head * group, (head + 1) * group)
                sinks = None if s_aux is None else s_aux.double().numpy()[heads]
                weights = self._weights(q[heads, row], k[head], visible, scaling, softcap, sinks)
                seen = self._seen(module.layer_idx, position, q[heads, row], k[head], visible,
                                  weights)
                if seen != visible:
                    weights = self._weights(q[heads, row], k[head], seen, scaling, softcap, sinks)
                output[row, heads] = weights @ v[head]
        return torch.tensor(output, dtype=query.dtype)[None], None

    @staticmethod
    def _weights(queries, keys, seen, scaling, softcap, sinks):
        scores = np.full((len(queries), len(keys)), -np.inf)
        scores[:, seen] = queries @ keys[seen].T * scaling
        if softcap:
            scores = np.where(np.isinf(scores), scores, softcap * np.tanh(scores / softcap))
        weights = np.exp(scores)
        total = weights.sum(1) + (0 if sinks is None else np.exp(sinks))
        return weights / total[:, None]

    def _seen(self, layer, position, queries, keys, visible, weights):
        options = self._options
        if options["policy"] == "window" and "page" not in options:
            return [key for key in visible
                    if key < options["sinks"] or position - key < options["recent"]]
        if layer < options["dense"] or position < self._prompt:
            return visible
        return seen_keys(options, queries, keys, visible, weights)


@pytest.mark.parametrize("family, spec", CASES)
def test_every_query_sees_what_the_definition_says(family, spec, exported, token_prompts, kvtool):
    expect_same(kvtool, exported(family), token_prompts, spec,
                lambda prompt: Selection(spec, prompt))


class WindowInCache:
    """A window with positions=cache: queries and keys as transformers turns them at the places
    that they have in a cache of sinks and recent keys."""

    def __init__(self, model, sinks, recent):
        self._model, self._sinks, self._recent = model, sinks, recent

    def __call__(self, module, query, key, value, attention_mask, scaling, softcap=None,
                 s_aux=None, sliding_window=None, **kwargs):
        q, k, v = (each[0].double() for each in (query, key, value))
        positions = torch.arange(k.shape[1])
        first = k.shape[1] - q.shape[1]
        plain_q = self._turned(module.layer_idx, q, positions[first:], back=True)
        plain_k = self._turned(module.layer_idx, k, positions, back=True)
        output = torch.zeros(q.shape[1], q.shape[0], v.shape[2], dtype=torch.float64)
        for row in range(q.shape[1]):
            held = [key for key in range(first + row + 1)
                    if key < self._sinks or first + row - key < self._recent]
            places = torch.arange(len(held))
            placed_q = self._turned(module.layer_idx, plain_q[:, row:row + 1], places[-1:])
            placed_k = self._turned(module.layer_idx, plain_k[:, held], places)
            for head in range(q.shape[0]):
                kv_head = head * k.shape[0] // q.shape[0]
                scores = placed_k[kv_head] @ placed_q[head, 0] * scaling
                if softcap:
                    scores = softcap * torch.tanh(scores / softcap)
                weights = scores.exp()
                if sliding_window:
                    weights = weights.where(len(held) - 1 - places < sliding_window, 0)
                total = weights.sum() + (0 if s_aux is None else s_aux[head].double().exp())
                output[row, head] = weights @ v[kv_head, held] / total
        return output.to(query.dtype)[None], None

    def _turned(self, layer, rows, positions, back=False):
        """Rows [heads, positions, dim], from 0 to their positions, or back."""
        config, body = self._model.config, self._model.base_model
        if not getattr(config, "no_rope_layers", [1] * 99)[layer]:
            return rows
        kind = [config.layer_types[layer]] if config.model_type == "gemma3_text" else []
        cos, sin = (each[0].double() for each in body.rotary_emb(
            torch.zeros(1, 1, 1), positions[None], *kind))
        if config.model_type == "gpt_oss":  # of one half
            cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
        # DeepSeek turns the last channels, all others the first.
        begin = rows.shape[-1] - cos.shape[-1] if config.model_type == "deepseek_v3" else 0
        part = rows[..., begin:begin + cos.shape[-1]]
        a, b = part.chunk(2, -1)
        turned = part * cos + torch.cat([-b, a], -1) * (-sin if back else sin)
        return torch.cat([rows[..., :begin], turned, rows[..., begin + cos.shape[-1]:]], -1)


# One rotation for all; of a part of the channels; windows of 8 and a soft cap; windows and two
# rotations; windows and sinks; a layer that is not turned; the last channels. A window of 8 of the
# model's own lies between what is recent and all that the cache holds, or hides nothing of it.
@pytest.mark.parametrize("sinks, recent", [(2, 7), (2, 4)])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "gemma3", "gpt_oss", "smollm3",
                                    "deepseek_v3"])
def test_a_window_gives_keys_the_positions_of_the_cache(family, sinks, recent, exported,
                                                        tiny_directory, token_prompts, kvtool):
    model = model_in(tiny_directory(family))
    expect_same(kvtool, exported(family), token_prompts,
                f"window:sinks={sinks},recent={recent},positions=cache",
                lambda prompt: WindowInCache(model, sinks, recent))


@pytest.mark.parametrize("family, table", [("gpt2", "transformer.wpe"),
                                           ("opt", "model.decoder.embed_positions")])
def test_positions_that_are_added_cannot_be_those_of_the_cache(family, table, exported,
                                                               token_prompts, kvtool):
    done = kvtool.run("save", "--model", exported(family).path, "--prompts", token_prompts,
                      "--device", "cpu", "--kv-cache", "window:positions=cache", "--out", "rec")
    assert done.returncode == 2
    assert f"kvtool/Tiny-{family}: it adds its positions to the embeddings ({table})" in done.stderr
    assert "positions=original" in done.stderr


def expect_same(kvtool, model, token_prompts, spec, attention_of_prompt):
    """K and V of every layer but the first follow from what the queries before it saw, the tokens
    from the last. One row of the batch is padded, one is not."""
    kvtool.ok("save", "--model", model.path, "--prompts", token_prompts,
              "--batch-size", 3, "--max-new-tokens", NEW_TOKENS, "--ignore-eos", "--device", "cpu",
              "--kv-cache", spec, "--out", "ref_cache")
    for index, line in list(enumerate(token_prompts.read_text().splitlines()))[:2]:
        recording = next(kvtool.directory.glob(f"ref_cache/CPU/*/batch3_input{index}.kvc"))
        target = kvtool.directory / f"{index}.safetensors"
        kvtool.ok("dump", recording, "--step", NEW_TOKENS - 2, "--to", target)
        dumped = load_file(target)
        ids = json.loads(line)["token_ids"]
        tokens = dumped["tokens"].tolist()
        rows, chosen = run(model.directory, attention_of_prompt(len(ids)), ids, tokens[len(ids):])
        for layer, (key, value) in rows.items():
            for name, ours, theirs in (("key", dumped[f"key.{layer}"], key),
                                       ("value", dumped[f"value.{layer}"], value)):
                assert ours.shape == theirs.shape
                error = (ours - theirs).abs().max() / theirs.abs().max()
                assert error < 2e-5, f"{name}.{layer} of input {index}"
        assert chosen == tokens[len(ids):], f"input {index}"


@functools.cache
def model_in(directory):
    """Whose attention is what "selection" is at the time."""
    transformers.AttentionInterface.register("selection", lambda: None)
    transformers.AttentionMaskInterface.register("selection", transformers.masking_utils.eager_mask)
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="selection").eval()


def run(directory, attention, ids, answer):
    """K and V that attention got last, per layer, and the token chosen after each that was fed."""
    latest = {}

    def attend(module, query, key, value, *args, **kwargs):
        latest[module.layer_idx] = (key[0], value[0])
        return attention(module, query, key, value, *args, **kwargs)

    model = model_in(directory)
    transformers.AttentionInterface.register("selection", attend)
    cache = transformers.DynamicCache()
    chosen = []
    with torch.no_grad():
        for fed in [ids] + [[token] for token in answer[:-1]]:
            logits = model(torch.tensor([fed]), past_key_values=cache).logits
            chosen.append(int(logits[0, -1].argmax()))
    return latest, chosen
