"""Models that cannot keep the contract are refused with the reason, and nothing is written."""

import json

import pytest
import torch
import transformers

from kvtool import agreement, export, tiny_models, tracing
from kvtool.errors import CheckFailedError, UnsupportedModelError

TINY = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
LLAMA = dict(TINY, intermediate_size=48, max_position_embeddings=64)


def run_export(directory, tmp_path, capsys, *more):
    output = tmp_path / "out" / "model.pt"
    status = export.main(
        ["--model", str(directory), "--dtype", "float32", "--output", str(output), *more]
    )
    assert not output.exists() and list(output.parent.iterdir()) == []
    return status, capsys.readouterr().err


def save_model(config, directory):
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(directory)


CONFIG_REFUSALS = {
    "encoder_decoder": (transformers.T5Config, dict(d_model=32, num_layers=1), "encoder-decoder"),
    "cross_attention": (transformers.GPT2Config, dict(add_cross_attention=True), "cross-attention"),
    "several_models": (transformers.Gemma3Config, {}, "combines several models"),
    "alibi": (transformers.FalconConfig, dict(TINY, alibi=True), "ALiBi"),
    "chunked": (transformers.Llama4TextConfig, {}, "chunk"),
    "recurrent": (transformers.MambaConfig, {}, "not a cache of keys and values"),
    "no_language_model": (transformers.ViTConfig, {}, "no causal language model"),
    "longrope": (
        transformers.Phi3Config,
        dict(
            LLAMA,
            pad_token_id=0,
            original_max_position_embeddings=32,
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=1e4,
                short_factor=[1.0] * 4,
                long_factor=[2.0] * 4,
                original_max_position_embeddings=32,
            ),
        ),
        "longrope",
    ),
    "dynamic_rope": (
        transformers.LlamaConfig,
        dict(LLAMA, rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)),
        "dynamic",
    ),
    "quantized": (
        transformers.LlamaConfig,
        dict(LLAMA, quantization_config=dict(quant_method="gptq", bits=4)),
        "quantized with 'gptq'",
    ),
}


@pytest.mark.parametrize("case", list(CONFIG_REFUSALS))
def test_refused_by_config_before_weights_are_read(case, tmp_path, capsys):
    config_class, settings, reason = CONFIG_REFUSALS[case]
    directory = tmp_path / "model"
    config_class(**settings).save_pretrained(directory)  # there are no weights to read
    status, message = run_export(directory, tmp_path, capsys)
    assert status == 2
    assert reason in message and "Traceback" not in message


MODEL_REFUSALS = {
    "falcon": (transformers.FalconConfig, dict(TINY, alibi=False), "no attention interface"),
    "gptj": (
        transformers.GPTJConfig,
        dict(vocab_size=64, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64),
        "no attention interface",
    ),
    "bloom": (
        transformers.BloomConfig,
        dict(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
        "does not take position_ids",
    ),
    "bidirectional_bert": (
        transformers.BertConfig,
        dict(TINY, intermediate_size=48),
        "not causal",
    ),
    "bidirectional_gemma": (
        transformers.Gemma3TextConfig,
        dict(LLAMA, head_dim=8, num_key_value_heads=2, use_bidirectional_attention=True),
        "not causal",
    ),
    "window_without_a_mask": (
        transformers.OlmoeConfig,
        dict(LLAMA, num_experts=4, num_experts_per_tok=2, sliding_window=8),
        "it passes a sliding window of 8 positions, but its mask has none",
    ),
    "expert_loop": (
        transformers.JetMoeConfig,
        dict(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=2,
            num_key_value_heads=2,
            kv_channels=8,
            intermediate_size=48,
            num_local_experts=4,
            num_experts_per_tok=2,
        ),
        "walks over tensor data",
    ),
    "repeated_layer_numbers": (
        transformers.DiffLlamaConfig,
        dict(LLAMA, num_key_value_heads=2),
        "attention",
    ),
}


@pytest.mark.parametrize("case", list(MODEL_REFUSALS))
def test_refused_by_running_the_model(case, tmp_path, capsys):
    config_class, settings, reason = MODEL_REFUSALS[case]
    directory = tmp_path / "model"
    save_model(config_class(**settings), directory)
    status, message = run_export(directory, tmp_path, capsys)
    assert status == 2
    assert reason in message and "Traceback" not in message


def test_length_dependent_computation_is_seen_in_the_graphs():
    """The rope check by config aside: two traces that differ are refused."""
    config = transformers.LlamaConfig(
        **LLAMA, rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=4.0)
    )
    config.max_position_embeddings = 4  # growth begins behind position 4
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    layers = tracing.find_layers(model, 64)
    with pytest.raises(UnsupportedModelError, match="which a trace cannot hold"):
        tracing.trace(model, layers, 64)


def test_unknown_attention_argument_is_refused(monkeypatch):
    model = tiny_models.build_model("gpt2")
    from transformers.models.gpt2 import modeling_gpt2

    forward = modeling_gpt2.GPT2Attention.forward

    def with_bias(self, *args, **kwargs):
        return forward(self, *args, **kwargs, position_bias=torch.zeros(1))

    monkeypatch.setattr(modeling_gpt2.GPT2Attention, "forward", with_bias)
    with pytest.raises(UnsupportedModelError, match="'position_bias'"):
        tracing.find_layers(model, 64)


@pytest.mark.parametrize(
    "family, change",
    [
        ("llama", dict(scale=0.3)),
        ("mistral", dict(sliding_window=9)),
        ("mistral", dict(sliding_window=0)),
        ("gemma2", dict(softcap=4.0)),
        ("gpt_oss", dict(has_sinks=False)),
    ],
)
def test_failed_check_writes_nothing(family, change, tiny_directory, tmp_path, capsys, monkeypatch):
    """A wrong constant in one layer is found by the numbers, whatever the graph says."""
    from dataclasses import replace

    find_layers = tracing.find_layers

    def wrong(model, max_positions):
        first, *rest = find_layers(model, max_positions)
        return [replace(first, **change), *rest]

    monkeypatch.setattr(tracing, "find_layers", wrong)
    status, message = run_export(tiny_directory(family), tmp_path, capsys)
    assert status == 2
    assert "differ from the original model's" in message


def test_damage_between_trace_and_file_is_found(tiny_directory, tmp_path, capsys, monkeypatch):
    """The written file is checked too, not only the module in memory."""
    load_on = tracing.load_on

    def damaged(path, device):
        module = load_on(path, device)
        with torch.no_grad():
            next(module.parameters()).mul_(1.5)
        return module

    monkeypatch.setattr(tracing, "load_on", damaged)
    status, message = run_export(tiny_directory("llama"), tmp_path, capsys)
    assert status == 2 and "differ from the original model's" in message


def transcript(logits):
    return agreement.Transcript(agreement.Case((2,), 0), [logits])


def compare(original, traced, dtype=torch.float32, uses_experts=False):
    return agreement.compare(original, traced, weights_dtype=dtype, uses_experts=uses_experts)


def test_compare_lets_single_tokens_be_rerouted_in_16_bits_only():
    generator = torch.Generator().manual_seed(0)
    case = agreement.Case((9,), 0)
    want = agreement.Transcript(case, [torch.randn(1, 9, 50, generator=generator)])
    rerouted = want.logits[0].clone()
    rerouted[0, 4] = torch.randn(50, generator=generator)
    got = agreement.Transcript(case, [rerouted])
    assert compare([want], [got], torch.bfloat16, uses_experts=True).different_choices == 1
    for dtype, uses_experts in ((torch.float32, True), (torch.bfloat16, False)):
        with pytest.raises(CheckFailedError):
            compare([want], [got], dtype, uses_experts)
    most = agreement.Transcript(case, [want.logits[0].roll(1, dims=1)])
    with pytest.raises(CheckFailedError, match="median"):
        compare([want], [most], torch.bfloat16, uses_experts=True)


@pytest.mark.parametrize(
    "family, change",
    [
        ("gpt_oss", dict(sliding_window=0)),
        ("qwen3_moe", dict(scale=0.5)),
        ("gemma2", dict(softcap=1.0)),
    ],
)
def test_failed_check_in_bfloat16(family, change, tiny_directory, tmp_path, capsys, monkeypatch):
    from dataclasses import replace

    find_layers = tracing.find_layers
    monkeypatch.setattr(
        tracing,
        "find_layers",
        lambda *args: [replace(spec, **change) for spec in find_layers(*args)],
    )
    status, message = run_export(tiny_directory(family), tmp_path, capsys, "--dtype", "bfloat16")
    assert status == 2 and "differ from the original model's" in message


def test_compare_accepts_ties_and_refuses_other_choices():
    want = torch.randn(1, 2, 50, generator=torch.Generator().manual_seed(0))
    compare([transcript(want)], [transcript(want + 1e-6)])
    other = want.clone()
    other[0, 1, 7] = want.max() + 5
    with pytest.raises(CheckFailedError):
        compare([transcript(want)], [transcript(other)])
    with pytest.raises(CheckFailedError):
        compare([transcript(want)], [transcript(want * float("nan"))])


def test_verify_graph_names_the_wrong_call():
    model = tiny_models.build_model("llama")
    layers = tracing.find_layers(model, 64)
    traced = tracing.trace(model, layers, 64)
    with pytest.raises(UnsupportedModelError, match="1 layers"):
        tracing.verify_graph(traced, layers[:1])
    with pytest.raises(UnsupportedModelError, match="number 0"):
        from dataclasses import replace

        tracing.verify_graph(traced, [replace(layers[0], sliding_window=5), layers[1]])


def test_missing_weights_are_not_made_up(tiny_directory, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    directory = tmp_path / "model"
    directory.mkdir()
    source = tiny_directory("llama")
    (directory / "config.json").write_bytes((source / "config.json").read_bytes())
    weights = load_file(source / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    status, message = run_export(directory, tmp_path, capsys)
    assert status == 5 and "model.norm.weight" in message


def test_unknown_model_type(tmp_path, capsys):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
    status, message = run_export(directory, tmp_path, capsys)
    assert status == 2 and "no_such_model" in message and "Traceback" not in message
