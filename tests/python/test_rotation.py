"""What kvtool.json says of how positions turn queries and keys, against transformers' own code."""

import pytest
import torch
from transformers.models.cohere import modeling_cohere
from transformers.models.llama import modeling_llama

from kvtool import rotation, tiny_models, tracing
from kvtool.rotation import HALVES, INTERLEAVED, Rotation
from kvtool.support import max_positions
from kvtool.tiny_configs import tiny_config


def frequencies(dims, theta=10000.0):
    return [theta ** (-2 * pair / dims) for pair in range(dims // 2)]


# Family -> per layer what its config says: offset, rotated dims and theta; None: not rotated.
LAYERS = {
    "llama": [(0, 16, 1e4)] * 2,
    "gpt_neox": [(0, 4, 1e4)] * 2,
    "stablelm": [(0, 8, 1e4)] * 2,
    "smollm3": [(0, 16, 2e6), None],
    "gemma2": [(0, 16, 1e4)] * 2,
    "gemma3": [(0, 16, 1e4), (0, 16, 1e4), (0, 16, 1e6)],
    "deepseek_v3": [(16, 8, 1e4)] * 3,
    "gpt_oss": [(0, 16, 1e4)] * 2,
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", LAYERS)
def test_rotations_are_those_of_the_config(family, dtype, exported):
    rotary = exported(family, dtype).metadata["rotary"]
    found = [None if each is None else rotary["rotations"][each] for each in rotary["layers"]]
    assert len(found) == len(LAYERS[family])
    for each, expected in zip(found, LAYERS[family], strict=True):
        if expected is None:
            assert each is None
            continue
        offset, dims, theta = expected
        assert (each["offset"], each["dims"], each["pairing"]) == (offset, dims, HALVES)
        assert each["inv_freq"] == pytest.approx(frequencies(dims, theta), rel=1e-6)


@pytest.mark.parametrize(
    "family,table",
    [("gpt2", "transformer.wpe"), ("gpt_bigcode", "transformer.wpe"),
     ("opt", "model.decoder.embed_positions")],
)
def test_models_that_add_positions_say_where(family, table, exported):
    assert exported(family).metadata["rotary"] == {
        "reason": f"it adds its positions to the embeddings ({table})"}


def found_in(model):
    longest = max_positions(model.config)
    layers = tracing.find_layers(model, longest)
    return rotation.find(tracing.trace(model, layers, longest), model, layers, longest)


def test_pairs_side_by_side():
    layers = found_in(tiny_models.model_of(tiny_config("cohere"))).layers
    assert {(each.offset, each.dims, each.pairing) for each in layers} == {(0, 16, INTERLEAVED)}


def test_a_rotation_backwards():
    layers = found_in(tiny_models.model_of(tiny_config("nanochat"))).layers
    assert layers[0].inv_freq == pytest.approx([-each for each in frequencies(16)], rel=1e-6)


def test_keys_that_are_changed_after_they_were_turned():
    """Norms with a weight for each channel come after the rotation."""
    found = found_in(tiny_models.model_of(tiny_config("hunyuan_v1_dense")))
    assert not found.layers
    assert "layer 0 at position 1 are not those of position 0" in found.reason


def test_queries_that_grow_with_the_position():
    config = tiny_config("ministral3")
    config.rope_parameters.update(llama_4_scaling_beta=0.5, original_max_position_embeddings=64)
    found = found_in(tiny_models.model_of(config))
    assert "position 85" in found.reason  # the first that is tried beyond 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frequencies_that_are_nearly_right_are_not_taken(dtype, monkeypatch):
    """Off by 1 in 1000: at the last position the fastest pair is 0.25 of a radian too far."""
    model = tiny_models.build_model("llama").to(dtype)
    right = [tuple(frequencies(16))]
    monkeypatch.setattr(rotation, "_frequencies", lambda traced: right)
    assert found_in(model).layers
    wrong = [tuple(each * 1.001 for each in right[0])]
    monkeypatch.setattr(rotation, "_frequencies", lambda traced: wrong)
    assert "turned by any of its rotary frequencies" in found_in(model).reason


@pytest.mark.parametrize("pairing,module", [(HALVES, modeling_llama),
                                            (INTERLEAVED, modeling_cohere)])
def test_turned_is_what_transformers_does(pairing, module):
    rows = torch.randn(1, 3, 5, 12, dtype=torch.float64)
    inv_freq = (1.0, 0.3, 0.01, 0.002)
    angles = 7 * torch.tensor(inv_freq, dtype=torch.float64)
    angles = torch.cat([angles, angles]) if pairing == HALVES else angles.repeat_interleave(2)
    expected, _ = module.apply_rotary_pos_emb(
        rows[..., 3:11], rows[..., 3:11], angles.cos()[None, None], angles.sin()[None, None])
    actual = rotation.turned(rows, Rotation(3, 8, pairing, inv_freq), 7)
    assert torch.allclose(actual[..., 3:11], expected.double(), atol=1e-6)
    assert torch.equal(actual[..., :3], rows[..., :3])
    assert torch.equal(actual[..., 11:], rows[..., 11:])


def test_layers_that_turn_alike_share_an_entry():
    one, other = Rotation(0, 2, HALVES, (1.0,)), Rotation(0, 2, HALVES, (0.5,))
    described = rotation.describe(rotation.Found((one, None, other, one)))
    assert described["layers"] == [0, None, 1, 0]
    assert [each["inv_freq"] for each in described["rotations"]] == [[1.0], [0.5]]
