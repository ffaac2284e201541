"""Every supported family: exported, loaded from the file, compared with transformers."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from kvtool import tiny_models
from kvtool.attention_op import AttentionCache

FAMILIES = list(tiny_models.FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_gives_the_same_weights_whatever_was_drawn_before(family):
    first = tiny_models.build_model(family).state_dict()
    torch.rand(7)
    second = tiny_models.build_model(family).state_dict()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def original_logits(directory, dtype, tokens, pads, width):
    """Logits of transformers' eager model: the prefill [B, width, V] and one step per
    further token [B, 1, V]. Positions count from the first token behind the padding."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager"
    ).eval()
    model.set_experts_implementation("eager")
    cache = DynamicCache(config=model.config)
    columns = torch.arange(tokens.shape[1])
    seen = columns[None, :] >= pads[:, None]
    positions = (columns[None, :] - pads[:, None]).clamp(min=0)
    passes, start = [], 0
    with torch.no_grad():
        for end in range(width, tokens.shape[1] + 1):
            out = model(
                input_ids=tokens[:, start:end],
                position_ids=positions[:, start:end],
                attention_mask=seen[:, :end].long(),
                past_key_values=cache,
                use_cache=True,
            )
            passes.append(out.logits)
            start = end
    return passes


def file_logits(path, tokens, pads, width):
    """The same passes through the exported file."""
    module = torch.jit.load(str(path))
    cache = AttentionCache(pads)
    columns = torch.arange(tokens.shape[1])
    positions = (columns[None, :] - pads[:, None]).clamp(min=0)
    passes, start = [], 0
    with torch.no_grad():
        for end in range(width, tokens.shape[1] + 1):
            with cache:
                passes.append(
                    module(tokens[:, start:end], positions[:, start:end], torch.arange(end - start))
                )
            start = end
    return passes


def assert_same(wanted, got, pads, width, tolerance):
    real = torch.arange(width)[None, :] >= pads[:, None]
    assert len(wanted) == len(got)
    for index, (a, b) in enumerate(zip(wanted, got)):
        assert a.dtype == b.dtype
        a, b = (a[real], b[real]) if index == 0 else (a, b)
        torch.testing.assert_close(b.float(), a.float(), atol=tolerance, rtol=tolerance)


# Lengths that the exporter neither traced nor checked with, longer than the windows.
@pytest.mark.parametrize("lengths", [(1,), (40,), (33, 21)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_file_agrees_with_transformers(exported, family, lengths):
    model = exported(family)
    width = max(lengths)
    pads = torch.tensor([width - length for length in lengths])
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(tiny_models.VOCAB_SIZE, (len(lengths), width + 5), generator=generator)
    wanted = original_logits(model.directory, torch.float32, tokens, pads, width)
    got = file_logits(model.path, tokens, pads, width)
    assert_same(wanted, got, pads, width, tolerance=2e-4)


@pytest.mark.parametrize(
    "family, dtype",
    [
        ("gemma2", "bfloat16"),
        ("llama", "float16"),
        ("qwen3_moe", "bfloat16"),
        ("gpt_oss", "bfloat16"),
    ],
)
def test_file_agrees_in_low_precision(exported, family, dtype):
    model = exported(family, dtype)
    assert model.metadata["dtype"] == dtype
    assert {layer["key_dtype"] for layer in model.metadata["layers"]} == {dtype}
    tokens = torch.randint(
        tiny_models.VOCAB_SIZE, (1, 30), generator=torch.Generator().manual_seed(3)
    )
    pads = torch.tensor([0])
    wanted = original_logits(model.directory, getattr(torch, dtype), tokens, pads, 26)
    got = file_logits(model.path, tokens, pads, 26)
    assert {logits.dtype for logits in got} == {logits.dtype for logits in wanted}
    a, b = (torch.cat(passes, dim=1).float()[0] for passes in (got, wanted))
    errors = (a - b).norm(dim=-1) / b.norm(dim=-1)
    # A token that is routed to another expert after a last-bit difference is no mistake.
    worst = errors.median() if family in ("qwen3_moe", "gpt_oss") else errors.max()
    assert worst < 0.05, errors


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_not_degenerate(exported, family):
    """A model that repeats one token would hide most mistakes of a cache."""
    module = exported(family).load()
    tokens = torch.tensor([[5, 77, 123, 200]])
    cache = AttentionCache()
    position, chosen = 0, []
    with torch.no_grad():
        for _ in range(24):
            length = tokens.shape[1]
            positions = torch.arange(position, position + length)[None]
            with cache:
                logits = module(tokens, positions, torch.tensor([length - 1]))
            position += length
            tokens = logits[:, -1].argmax(dim=-1, keepdim=True)
            chosen.append(int(tokens))
    assert len(set(chosen)) >= 4, chosen


def test_logits_to_keep_selects_positions(exported):
    module = exported("gpt_neox").load()
    tokens = torch.arange(20).reshape(2, 10)
    positions = torch.arange(10).repeat(2, 1)
    with torch.no_grad():
        everything = module(tokens, positions, torch.arange(10))
        kept = module(tokens, positions, torch.tensor([3, 9]))
    torch.testing.assert_close(kept, everything[:, [3, 9]])


EXPECTED_LAYERS = {
    # family: (sliding windows, softcap, sinks, heads, KV heads, key dim, value dim)
    "gpt2": ([0, 0], 0.0, False, 4, 4, 16, 16),
    "gpt_bigcode": ([0, 0], 0.0, False, 4, 1, 16, 16),
    "mistral": ([8, 8], 0.0, False, 4, 2, 16, 16),
    "qwen2": ([0, 8, 8], 0.0, False, 4, 2, 16, 16),
    "gemma2": ([8, 0], 5.0, False, 4, 2, 16, 16),
    "gemma3": ([8, 8, 0], 0.0, False, 4, 2, 16, 16),
    "deepseek_v3": ([0, 0, 0], 0.0, False, 4, 4, 24, 20),
    "gpt_oss": ([8, 0], 0.0, True, 4, 2, 16, 16),
}


@pytest.mark.parametrize("family", list(EXPECTED_LAYERS))
def test_layers_are_described(exported, family):
    layers = exported(family).metadata["layers"]
    windows, softcap, sinks, heads, kv_heads, key_dim, value_dim = EXPECTED_LAYERS[family]
    assert [layer["sliding_window"] for layer in layers] == windows
    for layer in layers:
        assert (layer["softcap"], layer["has_sinks"]) == (softcap, sinks)
        assert (layer["num_heads"], layer["num_kv_heads"]) == (heads, kv_heads)
        assert (layer["key_dim"], layer["value_dim"]) == (key_dim, value_dim)
    scale = 24**-0.5 if family in ("gemma2", "gemma3", "deepseek_v3") else 16**-0.5
    assert all(layer["scale"] == pytest.approx(scale) for layer in layers)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_graph_has_one_op_per_layer_in_order(exported, family):
    graph = exported(family).load().inlined_graph
    nodes = graph.findAllNodes("kvtool::attention")
    assert [list(node.inputs())[3].toIValue() for node in nodes] == list(range(len(nodes)))
    assert len(nodes) == len(exported(family).metadata["layers"])
    assert "transformers::" not in str(graph)


def test_same_seed_same_weights(exported, tmp_path):
    tiny_models.save("gpt2", tmp_path / "again")
    from kvtool.weights import weights_digest

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    assert weights_digest(model.state_dict()) == exported("gpt2").metadata["weights_sha256"]
