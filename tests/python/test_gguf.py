"""Every key and tensor of a GGUF file is applied, or refused by name."""

import gguf
import numpy as np
import pytest
import torch
import transformers as hf
from gguf_files import (
    architecture_keys,
    random_model,
    tensors_of,
    tokenizer_keys,
    write,
)

from kvtool import gguf_config, gguf_file, gguf_tokenizer, model_source
from kvtool.errors import UnsupportedModelError

COMMON = dict(
    vocab_size=384, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
)  # fmt: skip
IDS = torch.arange(5, 45)[None]


def plain(theta=1e4, **more):
    return dict(rope_type="default", rope_theta=theta, **more)


# architecture: config class, settings, and the same in keys. Nothing is as in the class.
MODELS = {
    "llama": (
        hf.LlamaConfig,
        dict(rms_norm_eps=1e-2, head_dim=16, rope_parameters=plain(5e4)),
        dict(attention__layer_norm_rms_epsilon=1e-2, rope__freq_base=5e4, rope__dimension_count=16),
    ),
    "qwen2": (
        hf.Qwen2Config,
        dict(rms_norm_eps=1e-2, rope_parameters=plain(3e4)),
        dict(attention__layer_norm_rms_epsilon=1e-2, rope__freq_base=3e4),
    ),
    "qwen3": (
        hf.Qwen3Config,
        dict(rms_norm_eps=1e-2, head_dim=24, rope_parameters=plain(3e4)),
        dict(attention__layer_norm_rms_epsilon=1e-2, rope__freq_base=3e4,
             attention__key_length=24, attention__value_length=24),
    ),
    "qwen2moe": (
        hf.Qwen2MoeConfig,
        dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=48,
             shared_expert_intermediate_size=40, norm_topk_prob=False),
        dict(expert_count=8, expert_used_count=3, expert_feed_forward_length=48,
             expert_shared_feed_forward_length=40),
    ),
    "qwen3moe": (
        hf.Qwen3MoeConfig,
        dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=48, head_dim=24,
             norm_topk_prob=True),
        dict(expert_count=8, expert_used_count=3, expert_feed_forward_length=48,
             attention__key_length=24, attention__value_length=24),
    ),
    "phi3": (
        hf.Phi3Config,
        dict(sliding_window=8, rms_norm_eps=1e-2, rope_parameters=plain(partial_rotary_factor=0.5),
             partial_rotary_factor=0.5),
        dict(attention__sliding_window=8, attention__layer_norm_rms_epsilon=1e-2,
             rope__dimension_count=8),
    ),
    "gemma2": (
        hf.Gemma2Config,
        dict(sliding_window=8, head_dim=24, query_pre_attn_scalar=24, attn_logit_softcapping=5.0,
             final_logit_softcapping=7.0, tie_word_embeddings=True),
        dict(attention__sliding_window=8, attention__key_length=24, attention__value_length=24,
             attn_logit_softcapping=5.0, final_logit_softcapping=7.0),
    ),
    "gemma3": (
        hf.Gemma3TextConfig,
        dict(sliding_window=8, head_dim=24, query_pre_attn_scalar=24, num_hidden_layers=7,
             rope_parameters=dict(
                 full_attention=dict(rope_type="linear", factor=8.0, rope_theta=5e4),
                 sliding_attention=plain(2e4))),
        dict(block_count=7, attention__sliding_window=8, attention__key_length=24,
             attention__value_length=24, rope__freq_base=5e4, rope__freq_base_swa=2e4,
             rope__scaling__type="linear", rope__scaling__factor=8.0),
    ),
    "stablelm": (
        hf.StableLmConfig,
        dict(layer_norm_eps=1e-2, partial_rotary_factor=0.5, use_qkv_bias=True,
             rope_parameters=plain(3e4, partial_rotary_factor=0.5)),
        dict(attention__layer_norm_rms_epsilon=None, attention__layer_norm_epsilon=1e-2,
             rope__freq_base=3e4, rope__dimension_count=8, use_parallel_residual=False),
    ),
    "starcoder2": (
        hf.Starcoder2Config,
        dict(norm_epsilon=1e-2, sliding_window=8, rope_parameters=plain(3e4)),
        dict(attention__layer_norm_rms_epsilon=None, attention__layer_norm_epsilon=1e-2,
             rope__freq_base=3e4, attention__sliding_window=8),
    ),
    "nemotron": (
        hf.NemotronConfig,
        dict(norm_eps=1e-2, partial_rotary_factor=0.5, head_dim=16,
             rope_parameters=plain(3e4, partial_rotary_factor=0.5)),
        dict(attention__layer_norm_rms_epsilon=None, attention__layer_norm_epsilon=1e-2,
             rope__freq_base=3e4, rope__dimension_count=8),
    ),
    "gpt2": (
        hf.GPT2Config,
        dict(n_inner=80, layer_norm_epsilon=1e-2),
        dict(attention__layer_norm_rms_epsilon=None, attention__layer_norm_epsilon=1e-2,
             attention__head_count_kv=None, rope__freq_base=None, feed_forward_length=80),
    ),
}  # fmt: skip


def original(architecture, **more):
    config_class, settings, _ = MODELS[architecture]
    return random_model(config_class(**{**COMMON, **settings, **more}))


def keys_of(architecture, **changed):
    return architecture_keys(architecture, **{**MODELS[architecture][2], **changed})


def load(path):
    source = model_source.resolve(None, str(path), None, None)
    config = model_source.read_config(source)
    return model_source.load(source, config, torch.float32).model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("architecture", list(MODELS))
def test_file_computes_what_its_model_does(architecture, tmp_path):
    model = original(architecture)
    keys = keys_of(architecture) | tokenizer_keys()
    path = write(tmp_path / "m.gguf", architecture, keys, tensors_of(model, architecture))
    torch.testing.assert_close(logits(load(path)), logits(model), atol=1e-5, rtol=1e-5)


def test_a_name_changes_nothing(tmp_path):
    """transformers makes a Mistral with a window of a file that is called so."""
    model = original("llama")
    keys = keys_of("llama") | tokenizer_keys() | {"general.name": "mistral"}
    path = write(tmp_path / "m.gguf", "llama", keys, tensors_of(model, "llama"))
    loaded = load(path)
    assert getattr(loaded.config, "sliding_window", None) is None
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=1e-5)


def with_factors(model, factors):
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            buffer.div_(torch.tensor(factors))
    return model


FACTORS = [1.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=64)
SCALINGS = {
    "linear": (dict(rope__scaling__type="linear", rope__scaling__factor=4.0),
               dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
    "factor without a type": (dict(rope__scaling__factor=4.0),
                              dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
    "old key": (dict(rope__scale_linear=4.0), dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
    "none": (dict(rope__scaling__type="none", rope__scaling__factor=4.0), plain()),
    "yarn": (dict(rope__scaling__type="yarn", rope__scaling__factor=4.0,
                  rope__scaling__original_context_length=64), YARN),
    "yarn with its own ramp": (
        dict(rope__scaling__type="yarn", rope__scaling__factor=4.0,
             rope__scaling__original_context_length=64, rope__scaling__yarn_beta_fast=8.0,
             rope__scaling__yarn_beta_slow=2.0), dict(YARN, beta_fast=8.0, beta_slow=2.0)),
}  # fmt: skip


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "stablelm"])
@pytest.mark.parametrize("case", list(SCALINGS))
def test_scaling_of_rotations_is_applied(case, architecture, tmp_path):
    changed, parameters = SCALINGS[case]
    parameters = dict(parameters, rope_theta=3e4)
    if architecture == "stablelm":
        parameters["partial_rotary_factor"] = 0.5
    model = original(architecture, rope_parameters=parameters)
    keys = keys_of(architecture, **changed) | tokenizer_keys()
    path = write(tmp_path / "m.gguf", architecture, keys, tensors_of(model, architecture))
    torch.testing.assert_close(logits(load(path)), logits(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_factors_of_frequencies_are_applied(architecture, tmp_path):
    model = original(architecture)
    tensors = tensors_of(model, architecture) | {"rope_freqs.weight": np.array(FACTORS)}
    keys = keys_of(architecture) | tokenizer_keys()
    path = write(tmp_path / "m.gguf", architecture, keys, tensors)
    wanted = logits(with_factors(model, FACTORS))
    torch.testing.assert_close(logits(load(path)), wanted, atol=1e-5, rtol=1e-5)


LONGROPE = {"rope_factors_long.weight": np.full(8, 4.0), "rope_factors_short.weight": FACTORS}


def test_longrope_needs_the_option_and_is_then_that_of_the_original(tmp_path):
    parameters = dict(
        rope_type="longrope", rope_theta=1e4, short_factor=FACTORS, long_factor=[4.0] * 8,
        original_max_position_embeddings=64, attention_factor=1.25,
    )  # fmt: skip
    model = original(
        "phi3", rope_parameters=parameters, original_max_position_embeddings=64,
        partial_rotary_factor=1.0,
    )  # fmt: skip
    changed = dict(rope__dimension_count=16, rope__scaling__original_context_length=64,
                   rope__scaling__attn_factor=1.25)  # fmt: skip
    keys = keys_of("phi3", **changed) | tokenizer_keys()
    path = write(tmp_path / "m.gguf", "phi3", keys, tensors_of(model, "phi3") | LONGROPE)
    source = model_source.resolve(None, str(path), None, None)
    with pytest.raises(UnsupportedModelError, match="--original-length"):
        model_source.read_config(source)
    config = model_source.read_config(source, at_original_length=True)
    loaded = model_source.load(source, config, torch.float32).model
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=1e-5)


REFUSED_TENSORS = {
    "norm of queries": ("llama", "blk.0.attn_q_norm.weight", (16,)),
    "bias of attention": ("llama", "blk.1.attn_q.bias", (64,)),
    "bias of a head": ("qwen2", "output.bias", (384,)),
    "scale of a weight": ("qwen2", "blk.0.ffn_up.scale", (1,)),
    "another layer": ("qwen2", "blk.2.attn_norm.weight", (64,)),
    "sinks": ("qwen3", "blk.0.attn_sinks.weight", (4,)),
    "router": ("llama", "blk.0.ffn_gate_inp.weight", (8, 64)),
    "classifier": ("qwen2", "cls.output.weight", (2, 64)),
    "one half of longrope": ("phi3", "rope_factors_long.weight", (8,)),
    "factors of another length": ("llama", "rope_freqs.weight", (4,)),
}


@pytest.mark.parametrize("case", list(REFUSED_TENSORS))
def test_tensor_without_a_place_is_refused_by_name(case, tmp_path):
    architecture, name, shape = REFUSED_TENSORS[case]
    tensors = tensors_of(original(architecture), architecture) | {name: np.ones(shape)}
    keys = keys_of(architecture) | tokenizer_keys()
    path = write(tmp_path / "m.gguf", architecture, keys, tensors)
    with pytest.raises(UnsupportedModelError, match=name):
        load(path)


# -- one key at a time


def specified_keys():
    """Every key of the specification that gguf knows, with its place for the architecture."""

    def walk(group):
        for name, value in vars(group).items():
            if isinstance(value, type):
                yield from walk(value)
            elif isinstance(value, str) and not name.startswith("_"):
                yield value

    groups = [vars(gguf.Keys)[name] for name in vars(gguf.Keys) if not name.startswith("_")]
    return sorted({key for group in groups for key in walk(group)})


def values_for(key):
    """Values that no base file has, of the type that the key has."""
    name = key.rpartition(".")[2]
    if key in ("general.architecture", "general.alignment"):
        return []
    if name in ("causal", "use_parallel_residual", "expert_weights_norm", "swin_norm",
                "finetuned", "remove_extra_whitespaces") or name.startswith("add_"):  # fmt: skip
        return [True, False]
    if name in ("tokens", "merges", "languages", "tags", "datasets", "output_labels"):
        return [["a", "b c"]]
    if name == "token_type":
        return [[3, 3, 3] + [4] + [1] * 380]
    if name in ("scores",):
        return [[float(index % 7) for index in range(384)]]
    if name in ("precompiled_charsmap", "dimension_sections", "sliding_window_pattern"):
        return [[1, 0]]
    if key.startswith("general.") and ".sampling." not in key or name in (
        "type", "tensor_data_layout", "model", "pre", "chat_template", "json", "{name}",
        "chat_templates", "world", "task_name", "prompt_prefix", "projector_type", "sequence",
    ):  # fmt: skip
        return ["smollm" if name == "pre" else "strange"]
    if any(part in name for part in ("eps", "softcap", "scale", "factor", "base", "alpha", "scaling",
                                     "penalty", "beta", "clamp", "bias", "log", "top_p")):  # fmt: skip
        return [3.5]
    return [5]


@gguf_file.reading_once()
def observed(path, with_tokenizer=True):
    """What is made of a file's keys: config, ends of generation, tokenizer."""
    source = model_source.resolve(None, str(path), None, None)
    config = model_source.read_config(source, at_original_length=False)
    file = gguf_file.read(path)
    generation = hf.GenerationConfig()
    gguf_config.apply_to_generation(generation, file)
    named = config.to_dict()
    named.pop("_name_or_path", None)
    if not with_tokenizer:
        return str(named), generation.to_json_string()
    tokenizer = gguf_tokenizer.load(file)
    return (
        str(named), generation.to_json_string(),
        tokenizer.backend_tokenizer.to_str(), str(tokenizer.special_tokens_map),
        tokenizer.chat_template,
    )  # fmt: skip


def is_harmless(key, architecture):
    import re

    suffix = key.removeprefix(architecture + ".")
    patterns = (*gguf_config.HARMLESS, *gguf_tokenizer.HARMLESS)
    return suffix in gguf_config.HARMLESS_OF_ARCHITECTURE or any(
        re.fullmatch(pattern, key) for pattern in patterns
    )


BASES = [("llama", "llama"), ("qwen2", "gpt2"), ("phi3", "llama"), ("gemma3", "llama"),
         ("qwen3moe", "gpt2"), ("stablelm", "gpt2"), ("gpt2", "gpt2"), ("nemotron", "llama")]  # fmt: skip

# Accepted with any value, because nothing of it is used where it stands; each with why.
WITHOUT_EFFECT = {
    # YaRN's length, where nothing is scaled by YaRN.
    "rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
    # llama.cpp takes pieces by score, not in the order of their names.
    "tokenizer.ggml.pre",
    # Byte pairs have no scores.
    "tokenizer.ggml.scores",
}  # fmt: skip


@pytest.mark.parametrize("architecture, tokenizer", BASES, ids=[base[0] for base in BASES])
def test_every_specified_key_is_applied_or_refused(architecture, tokenizer, tmp_path):
    # Follows from the file's tensors, of which there are none here.
    base = keys_of(architecture, use_parallel_residual=None) | tokenizer_keys(tokenizer)
    of_any_file = architecture in ("llama", "qwen2")  # with pieces, with byte pairs
    before = observed(write(tmp_path / "base.gguf", architecture, base), of_any_file)
    silent = []
    for template in specified_keys():
        if not of_any_file and "{arch}" not in template:
            continue
        key = template.format(arch=architecture, id=0, name="tool_use", dense="dense_2")
        outcomes = []
        for value in values_for(key):
            path = write(tmp_path / "changed.gguf", architecture, base | {key: value})
            try:
                outcomes.append("silent" if observed(path, of_any_file) == before else "applied")
            except UnsupportedModelError as error:
                assert "changed.gguf" in str(error)
                outcomes.append("refused")
        suffix = key.removeprefix(architecture + ".")
        harmless = is_harmless(key, architecture) or suffix in WITHOUT_EFFECT
        # Of a flag's two values one is the base's.
        if outcomes and set(outcomes) == {"silent"} and not harmless:
            silent.append(key)
        if is_harmless(key, architecture):
            assert set(outcomes) <= {"silent"}, key
    assert silent == []


@pytest.mark.parametrize("key", ["qwen2.no_such_key", "vendor.secret", "llama.rope.freq_base",
                                 "qwen2.rope.scaling.new_kind", "tokenizer.ggml.new_kind"])  # fmt: skip
def test_unknown_key_is_refused_by_name(key, tmp_path):
    keys = keys_of("qwen2") | tokenizer_keys() | {key: 7}
    with pytest.raises(UnsupportedModelError, match=key):
        observed(write(tmp_path / "m.gguf", "qwen2", keys))


@pytest.mark.parametrize(
    "key",
    ["embedding_length", "block_count", "attention.head_count", "attention.layer_norm_rms_epsilon"],
)
def test_key_that_is_needed(key, tmp_path):
    keys = keys_of("qwen2") | tokenizer_keys()
    keys.pop("qwen2." + key)
    with pytest.raises(UnsupportedModelError, match=key):
        gguf_config.applied(
            hf.Qwen2Config(), gguf_file.read(write(tmp_path / "m.gguf", "qwen2", keys))
        )


def test_key_that_does_not_fit_the_tensors(tmp_path):
    keys = keys_of("qwen2", attention__head_count=5) | tokenizer_keys()
    path = write(tmp_path / "m.gguf", "qwen2", keys, tensors_of(original("qwen2"), "qwen2"))
    with pytest.raises(UnsupportedModelError, match="are not those of the config"):
        load(path)


@pytest.mark.parametrize("heads", [[2, 1], [2, 2]])
def test_key_with_a_value_for_each_layer(heads, tmp_path):
    keys = keys_of("qwen2", attention__head_count_kv=heads) | tokenizer_keys()
    with pytest.raises(UnsupportedModelError, match="num_key_value_heads"):
        observed(write(tmp_path / "m.gguf", "qwen2", keys))


def test_part_of_a_split_file_is_refused(tmp_path):
    keys = keys_of("qwen2") | tokenizer_keys() | {"split.count": 2, "split.no": 0}
    with pytest.raises(UnsupportedModelError, match="part 1 of 2"):
        observed(write(tmp_path / "m.gguf", "qwen2", keys))


def test_ends_of_turns_end_a_generation(tmp_path):
    more = {"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 9}
    model = original("qwen2")
    keys = keys_of("qwen2") | tokenizer_keys() | more
    path = write(tmp_path / "m.gguf", "qwen2", keys, tensors_of(model, "qwen2"))
    assert load(path).generation_config.eos_token_id == [2, 7, 9]


# -- codes


def dequantized(kind, block):
    """The values of one block by the format's formula (ggml-quants.c), written out."""
    half = lambda place: float(np.frombuffer(block[place : place + 2], np.float16)[0])  # noqa: E731
    if kind == "Q8_0":
        return [half(0) * code for code in np.frombuffer(block[2:], np.int8)]
    scale = half(0)
    minimum = half(2) if kind in ("Q4_1", "Q5_1") else None
    place = 4 if minimum is not None else 2
    high = 0
    if kind in ("Q5_0", "Q5_1"):
        high = int.from_bytes(block[place : place + 4], "little")
        place += 4
    codes = [byte & 15 for byte in block[place:]] + [byte >> 4 for byte in block[place:]]
    if kind in ("Q5_0", "Q5_1"):
        codes = [code | (high >> index & 1) << 4 for index, code in enumerate(codes)]
    if minimum is not None:
        return [scale * code + minimum for code in codes]
    return [scale * (code - (16 if kind == "Q5_0" else 8)) for code in codes]


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_codes_follow_the_formula(kind):
    quantization = gguf.GGMLQuantizationType[kind]
    values = np.random.default_rng(3).normal(size=(8, 32)).astype(np.float32)
    codes = gguf.quantize(values, quantization)
    wanted = [dequantized(kind, bytes(row)) for row in codes]
    got = gguf.dequantize(codes, quantization)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert np.abs(got - values).max() < 0.3


def six_bits(codes, index):
    """Scale and minimum number `index` of the 12 bytes that Q4_K and Q5_K share."""
    if index < 4:
        return codes[index] & 63, codes[index + 4] & 63
    low, high = codes[index + 4], (codes[index - 4] >> 6, codes[index] >> 6)
    return low & 15 | high[0] << 4, low >> 4 | high[1] << 4


def of_super_block(kind, block):
    """The 256 values of a block, after ggml's description of the formats."""
    half = lambda place: float(np.frombuffer(block[place : place + 2], np.float16)[0])  # noqa: E731
    values = []
    if kind == "Q6_K":
        low, high, scales = block[:128], block[128:192], np.frombuffer(block[192:208], np.int8)
        for index in range(256):
            part, place = divmod(index, 128)
            quarter, column = divmod(place, 32)
            byte = low[64 * part + 32 * (quarter % 2) + column]
            code = byte >> 4 if quarter >= 2 else byte & 15
            code |= (high[32 * part + column] >> (2 * quarter) & 3) << 4
            values.append(half(208) * int(scales[index // 16]) * (code - 32))
        return values
    fifth, codes = (block[16:48], block[48:]) if kind == "Q5_K" else (None, block[16:])
    for index in range(256):
        group, column = divmod(index, 32)
        byte = codes[32 * (group // 2) + column]
        code = byte >> 4 if group % 2 else byte & 15
        if fifth is not None:
            code |= (fifth[column] >> group & 1) << 4
        scale, minimum = six_bits(block[4:16], group)
        values.append(half(0) * scale * code - half(2) * minimum)
    return values


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_codes_of_super_blocks_follow_the_formula(kind):
    quantization = gguf.GGMLQuantizationType[kind]
    size = gguf.GGML_QUANT_SIZES[quantization][1]
    blocks = np.random.default_rng(4).integers(0, 256, (4, size), dtype=np.uint8)
    scale = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    for place in (208,) if kind == "Q6_K" else (0, 2):
        blocks[:, place : place + 2] = scale
    wanted = [of_super_block(kind, bytes(row)) for row in blocks]
    np.testing.assert_allclose(gguf.dequantize(blocks, quantization), wanted, rtol=1e-5)
