"""What a checkpoint holds is used or refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, DeepseekV3Config

from kvtool import export, fp8, mxfp4, tiny_models


@pytest.fixture
def folder(tiny_directory, tmp_path):
    """(family, change of weights, config values) -> directory of a changed checkpoint"""

    def make(family, change=lambda weights: None, **config):
        directory = tmp_path / "model"
        directory.mkdir()
        source = tiny_directory(family)
        settings = json.loads((source / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**settings, **config}))
        weights = load_file(source / "model.safetensors")
        change(weights)
        save_file(weights, directory / "model.safetensors", {"format": "pt"})
        return directory

    return make


@pytest.fixture
def run(tmp_path, capsys):
    """Exports a directory: (exit status, standard error)"""

    def go(directory, *more):
        output = tmp_path / "x.pt"
        output.unlink(missing_ok=True)
        arguments = ["--model", str(directory), "--dtype", "float32", "--output", str(output)]
        status = export.main([*arguments, *more])
        assert output.exists() == (status == 0)
        return status, capsys.readouterr().err

    return go


def add(name, *shape, dtype=torch.float32):
    return lambda weights: weights.update({name: torch.ones(shape, dtype=dtype)})


REFUSED = {
    "bias of attention": ("llama", add("model.layers.0.self_attn.q_proj.bias", 64)),
    "bias of a norm": ("llama", add("model.layers.1.input_layernorm.bias", 64)),
    "bias of the head": ("llama", add("lm_head.bias", 384)),
    "norm of queries": ("llama", add("model.layers.0.self_attn.q_norm.weight", 16)),
    "sinks": ("llama", add("model.layers.0.self_attn.sinks", 4)),
    "another layer": ("llama", add("model.layers.2.mlp.up_proj.weight", 96, 64)),
    "LoRA": ("llama", add("model.layers.0.self_attn.q_proj.lora_A.weight", 8, 64)),
    "scale": ("llama", add("model.layers.0.self_attn.q_proj.weight_scale", 1)),
    "value head": ("llama", add("v_head.summary.weight", 1, 64)),
    "a bias that looks like a mask": ("llama", add("model.layers.0.self_attn.bias", 64)),
    "layer behind those that the class leaves out": (
        "deepseek_v3",
        add("model.layers.61.mlp.up_proj.weight", 96, 64),
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_tensor_without_a_place_is_refused_by_name(case, folder, run):
    family, change = REFUSED[case]
    added = {}
    change(added)
    status, message = run(folder(family, change))
    assert status == 2 and next(iter(added)) in message and "would not be used" in message


ACCEPTED = {
    "frequencies": ("llama", add("model.layers.0.self_attn.rotary_emb.inv_freq", 8)),
    "mask": ("gpt_neox", add("gpt_neox.layers.0.attention.bias", 1, 1, 8, 8, dtype=torch.bool)),
    "number of the mask": ("gpt_neox", add("gpt_neox.layers.0.attention.masked_bias")),
    "mask of GPT-2": ("gpt2", add("h.0.attn.bias", 1, 1, 8, 8)),
    "position ids": ("llama", add("model.position_ids", 1, 256, dtype=torch.int64)),
}


@pytest.mark.parametrize("case", list(ACCEPTED))
def test_tensor_that_changes_nothing_is_accepted(case, folder, run):
    assert run(folder(*ACCEPTED[case]))[0] == 0


def test_layer_that_guesses_ahead_is_accepted_behind_the_last(tmp_path, run):
    config = DeepseekV3Config(**{**tiny_models.FAMILIES["deepseek_v3"].settings,
                                 "num_hidden_layers": 61, "hidden_size": 16, "vocab_size": 64,
                                 "first_k_dense_replace": 61})  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    weights["model.layers.61.eh_proj.weight"] = torch.ones(16, 32)
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    assert run(tmp_path / "m")[0] == 0


@pytest.mark.parametrize(
    "config, name",
    [
        (dict(attention_bias=True), "self_attn.k_proj.bias"),
        (dict(num_hidden_layers=3), "model.layers.2."),
        (dict(model_type="qwen3", architectures=["Qwen3ForCausalLM"]), "k_norm.weight"),
    ],
)
def test_weights_that_are_missing_are_not_made_up(config, name, folder, run):
    status, message = run(folder("llama", **config))
    assert status == 5 and name in message


def test_another_shape_is_named(folder, run):
    status, message = run(folder("llama", intermediate_size=80))
    assert status == 2 and "down_proj.weight: (64, 96), but (64, 80) by the config" in message


def test_missing_expert_is_refused(folder, run):
    def drop(weights):
        weights.pop("model.layers.0.block_sparse_moe.experts.3.w1.weight")

    status, message = run(folder("mixtral", drop))
    assert status == 2 and "model.layers.0.mlp.experts.gate_up_proj" in message


def test_fewer_experts_than_the_checkpoint_has(folder, run):
    status, message = run(folder("mixtral", num_local_experts=3))
    assert status == 2 and "experts" in message


@pytest.mark.parametrize(
    "name, words",
    [
        ("adapter_config.json", "holds an adapter"),
        ("adapter_model.safetensors", "holds an adapter"),
        ("model-00002-of-00002.safetensors", "would not be read"),
    ],
)
def test_weights_that_nothing_reads(name, words, folder, run):
    directory = folder("llama")
    (directory / name).write_bytes((directory / "model.safetensors").read_bytes())
    status, message = run(directory)
    assert status == 2 and name in message and words in message


def test_the_same_weights_in_another_form_are_left_alone(folder, run):
    directory = folder("llama")
    for name in ("consolidated.safetensors", "model.fp16.safetensors"):
        (directory / name).write_bytes((directory / "model.safetensors").read_bytes())
    assert run(directory)[0] == 0


def test_tensors_of_all_shards_are_examined(folder, run):
    directory = folder("llama")
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    names = sorted(weights)
    parts = {first: names[:5], second: names[5:]}
    index = {name: file for file, part in parts.items() for name in part}
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, directory / file, {"format": "pt"})
    assert run(directory)[0] == 0
    extra = {name: weights[name] for name in parts[second]} | {"extra.weight": torch.ones(2)}
    save_file(extra, directory / second, {"format": "pt"})
    status, message = run(directory)
    assert status == 2 and "extra.weight" in message


def test_weights_of_torch_are_examined_too(folder, run):
    directory = folder("llama")
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(weights, directory / "pytorch_model.bin")
    assert run(directory)[0] == 0
    torch.save({**weights, "extra.weight": torch.ones(2)}, directory / "pytorch_model.bin")
    status, message = run(directory)
    assert status == 2 and "extra.weight" in message


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8])
def test_codes_without_a_word_on_their_scales_are_refused(dtype, folder, run):
    name = "model.layers.0.mlp.up_proj.weight"

    def store(weights):
        weights[name] = weights[name].to(dtype)

    status, message = run(folder("llama", store))
    assert status == 2 and f"{name} is stored as" in message


def quantize(weights, scale_of, names=("proj.weight",)):
    """Puts FP8 codes and their scales into `weights`; returns what they stand for, by the
    formula written out."""
    right = dict(weights)
    for name, weight in list(weights.items()):
        if not name.endswith(names) or weight.dim() != 2:
            continue
        suffix, scales, spread = scale_of(weight)
        weights[name] = (weight / spread).to(torch.float8_e4m3fn)
        weights[name + suffix] = scales
        right[name] = torch.stack(
            [weights[name][row].float() * spread[row] for row in range(weight.shape[0])]
        )
    return right


def in_blocks(size):
    def scale_of(weight):
        rows, columns = weight.shape
        scales = torch.rand(-(-rows // size), -(-columns // size)) + 0.1
        spread = torch.tensor(
            [[scales[i // size, j // size] for j in range(columns)] for i in range(rows)]
        )
        return "_scale_inv", scales, spread

    return scale_of


def per_tensor(weight):
    return "_scale", torch.tensor([0.3]), torch.full_like(weight, 0.3)


def per_row(weight):
    scales = torch.rand(weight.shape[0], 1) + 0.1
    return "_scale", scales, scales.expand_as(weight)


FP8 = {
    # Blocks of 48: 64 rows are one and a third, 96 are two, 32 are two thirds.
    "partial blocks": (in_blocks(48), [48, 48]),
    "blocks": (in_blocks(32), [32, 32]),
    "one block": (in_blocks(128), [128, 128]),
    "tensor": (per_tensor, None),
    "rows": (per_row, None),
}


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("case", list(FP8))
def test_fp8_weights_follow_the_formula(case, family, folder, run, tmp_path):
    scale_of, block = FP8[case]
    torch.manual_seed(1)
    right = {}
    directory = folder(
        family,
        lambda weights: right.update(quantize(weights, scale_of)),
        quantization_config=dict(
            quant_method="fp8", activation_scheme="dynamic", weight_block_size=block
        ),
    )
    assert run(directory)[0] == 0

    plain = tmp_path / "plain"
    config = AutoConfig.from_pretrained(directory)
    del config.quantization_config
    config.save_pretrained(plain)
    save_file(right, plain / "model.safetensors", {"format": "pt"})
    wanted = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).state_dict()
    loaded = torch.jit.load(str(tmp_path / "x.pt")).state_dict()
    for name, tensor in wanted.items():
        assert torch.equal(loaded["model." + name], tensor), name


def break_scale(how):
    name = "model.layers.0.mlp.up_proj.weight"

    def change(weights):
        quantize(weights, in_blocks(32))
        scale = weights.pop(name + "_scale_inv")
        if how == "other shape":
            weights[name + "_scale_inv"] = scale[:1].contiguous()
        if how == "scale of floating point":
            weights[name + "_scale_inv"] = scale
            weights[name] = weights[name].float()

    return change


@pytest.mark.parametrize("how", ["no scale", "other shape", "scale of floating point"])
def test_fp8_scales_that_do_not_fit_are_refused(how, folder, run):
    settings = dict(quant_method="fp8", weight_block_size=[32, 32])
    status, message = run(folder("llama", break_scale(how), quantization_config=settings))
    assert status == 2 and "model.layers.0.mlp.up_proj.weight" in message


@pytest.mark.parametrize("scales", [(2, 1), (1, 2), (4,), (1,), (2, 3)])
def test_scale_grid_names_what_does_not_fit(scales):
    from kvtool.errors import UnsupportedModelError

    with pytest.raises(UnsupportedModelError, match="w: its scales have shape"):
        fp8.scale_grid("w", (192, 256), scales, [128, 128])


def test_mxfp4_value_of_every_code():
    """OCP Microscaling 1.0: s eee m with one bit of mantissa and a bias of 1."""
    blocks = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 16)  # low half is the code
    scales = torch.tensor([[128]], dtype=torch.uint8)  # 2^1
    got = mxfp4.dequantize(blocks, scales, torch.float32).flatten()
    for code in range(16):
        sign, exponent, mantissa = code >> 3, (code >> 1) & 3, code & 1
        value = mantissa * 0.5 if exponent == 0 else (1 + mantissa / 2) * 2 ** (exponent - 1)
        assert got[2 * code] == (-1) ** sign * value * 2
        assert got[2 * code + 1] == 0


def pack_experts(weights):
    """MXFP4 codes of every expert tensor; returns what they stand for."""
    right = dict(weights)
    generator = torch.Generator().manual_seed(2)
    for name, weight in list(weights.items()):
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            continue
        experts, columns, rows = weight.shape
        shape = (experts, rows, columns // 32)
        blocks = torch.randint(256, (*shape, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(122, 127, shape, generator=generator, dtype=torch.uint8)
        del weights[name]
        weights[name + "_blocks"], weights[name + "_scales"] = blocks, scales
        right[name] = mxfp4.dequantize(blocks, scales, torch.float32).transpose(1, 2).contiguous()
    return right


def test_mxfp4_experts_follow_the_formula(folder, run, tmp_path):
    right = {}
    directory = folder(
        "gpt_oss",
        lambda weights: right.update(pack_experts(weights)),
        quantization_config=dict(quant_method="mxfp4"),
    )
    assert run(directory)[0] == 0
    loaded = torch.jit.load(str(tmp_path / "x.pt")).state_dict()
    for name, tensor in right.items():
        assert torch.equal(loaded["model." + name], tensor), name


def test_mxfp4_without_scales(folder, run):
    def drop(weights):
        pack_experts(weights)
        weights.pop("model.layers.1.mlp.experts.down_proj_scales")

    status, message = run(folder("gpt_oss", drop, quantization_config=dict(quant_method="mxfp4")))
    assert status == 2 and "model.layers.1.mlp.experts.down_proj_blocks" in message
