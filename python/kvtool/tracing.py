"""Turns a causal language model into a TorchScript module that keeps the contract.

    forward(input_ids i64[B,S], position_ids i64[B,S], logits_to_keep i64[K])
        -> logits [B,K,vocab]

with one `kvtool::attention` per layer and no other state. What a trace can get
wrong silently is checked here on the graph; what only shows in numbers is
checked in `agreement`.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from kvtool import experts
from kvtool.attention_op import OP_NAME, attention
from kvtool.errors import UnsupportedModelError, foreign_errors
from kvtool.implementations import implementations
from kvtool.layer_probe import LayerSpec, probe_layers
from kvtool.weights import weights_digest

TRACE_IMPLEMENTATION = "kvtool_trace"


@dataclass(frozen=True)
class _Example:
    """Inputs to trace with.

    More than one token and more than one row: traces of size-1 dimensions bake
    broadcasts and squeezes in.
    """

    batch: int
    length: int
    first_position: int
    seed: int

    def inputs(self, model) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """input_ids i64[B,S], position_ids i64[B,S], logits_to_keep i64[2]"""
        embedding = model.get_input_embeddings().weight
        generator = torch.Generator().manual_seed(self.seed)
        input_ids = torch.randint(
            embedding.shape[0], (self.batch, self.length), generator=generator
        )
        positions = torch.arange(self.first_position, self.first_position + self.length)
        tensors = (input_ids, positions.repeat(self.batch, 1), torch.tensor([0, self.length - 1]))
        return tuple(tensor.to(embedding.device) for tensor in tensors)


_FIRST = _Example(batch=3, length=7, first_position=0, seed=0)
_FAR = _Example(batch=2, length=5, first_position=0, seed=1)
_ASSUMED_POSITIONS = 4096  # for models that name no limit


class CausalLmModule(torch.nn.Module):
    """The signature of the contract around a transformers causal language model."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self._model_selects_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def forward(self, input_ids, position_ids, logits_to_keep):
        kept = {"logits_to_keep": logits_to_keep} if self._model_selects_logits else {}
        logits = self.model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False, **kept
        ).logits
        return logits if self._model_selects_logits else logits[:, logits_to_keep]


def require_signature(model) -> None:
    """Raises UnsupportedModelError unless the model takes its positions from outside."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not take position_ids: it makes up positions itself, "
            "which cannot work when the engine keeps the cache"
        )


def find_layers(model, max_positions: int | None) -> list[LayerSpec]:
    """Runs the model once and returns what each attention layer asks for, in order.

    Raises UnsupportedModelError for models without an attention interface and for
    layers that the op cannot express.
    """
    input_ids, position_ids, _ = _FIRST.inputs(model)

    def forward():
        with torch.no_grad():
            model(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=torch.ones_like(input_ids),
                use_cache=False,
            )

    with foreign_errors(f"{type(model).__name__} cannot run without a cache"):
        layers = probe_layers(model, forward, max_positions)
    expected = model.config.num_hidden_layers
    if not layers:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no attention interface in transformers (it computes "
            "attention itself), so its cache cannot be handed to the engine"
        )
    if len(layers) != expected:
        raise UnsupportedModelError(
            f"{type(model).__name__} has {expected} layers but {len(layers)} attention calls; "
            "the engine needs exactly one per layer"
        )
    return layers


def trace(model, layers: Sequence[LayerSpec], max_positions: int | None) -> torch.jit.ScriptModule:
    """Traces `model` on CPU with the layers that `find_layers` found.

    The model is traced twice, with other tokens, another shape and positions at the
    far end of its range: whatever differs between the two graphs is a value of the
    example that the trace froze.

    Raises UnsupportedModelError when the graphs differ, the model walks over data in
    Python, or the graph is not what `layers` says.
    """
    far = max(0, (max_positions or _ASSUMED_POSITIONS) - _FAR.length)
    traced = _trace_once(model, layers, _FIRST)
    verify_graph(traced, layers)
    again = _trace_once(model, layers, replace(_FAR, first_position=far))
    difference = _first_difference(_graph_lines(traced), _graph_lines(again))
    if difference:
        raise UnsupportedModelError(
            f"{type(model).__name__} computes something else for other tokens, lengths or "
            f"positions, which a trace cannot hold; first difference: {difference}"
        )
    return traced


def _trace_once(model, layers, example: _Example) -> torch.jit.ScriptModule:
    calls = _TracedAttention(layers)
    experts.register()
    AttentionInterface.register(TRACE_IMPLEMENTATION, calls.attend)
    AttentionMaskInterface.register(TRACE_IMPLEMENTATION, lambda *args, **kwargs: None)
    try:
        with (
            foreign_errors(f"{type(model).__name__} cannot be traced"),
            implementations(model, TRACE_IMPLEMENTATION, experts.EXPERTS_IMPLEMENTATION),
            warnings.catch_warnings(record=True) as caught,
            torch.no_grad(),
        ):
            warnings.simplefilter("always")
            traced = torch.jit.trace(
                CausalLmModule(model).eval(), example.inputs(model), check_trace=False
            )
    finally:
        AttentionInterface._global_mapping.pop(TRACE_IMPLEMENTATION, None)
        AttentionMaskInterface._global_mapping.pop(TRACE_IMPLEMENTATION, None)
    _refuse_walks_over_data(caught)
    return traced


def verify_graph(traced: torch.jit.ScriptModule, layers: Sequence[LayerSpec]) -> None:
    """Raises UnsupportedModelError unless the graph calls the op once per layer, in
    order, with that layer's constants."""
    graph = traced.inlined_graph  # a fresh copy, which owns the nodes found in it
    nodes = graph.findAllNodes(OP_NAME)
    if len(nodes) != len(layers):
        raise UnsupportedModelError(
            f"the trace calls {OP_NAME} {len(nodes)} times for {len(layers)} layers"
        )
    for index, (node, spec) in enumerate(zip(nodes, layers, strict=True)):
        layer, scale, window, softcap = (value.toIValue() for value in list(node.inputs())[3:7])
        sinks = list(node.inputs())[7]
        has_sinks = "None" not in str(sinks.type())
        found = (layer, scale, window, softcap, has_sinks)
        wanted = (index, spec.scale, spec.sliding_window, spec.softcap, spec.has_sinks)
        if found != wanted:
            raise UnsupportedModelError(
                f"the trace calls {OP_NAME} number {index} with (layer, scale, sliding_window, "
                f"softcap, sinks) = {found}, the model asks for {wanted}"
            )


class _TracedAttention:
    """The attention implementation while tracing: one op per call, nothing else."""

    def __init__(self, layers: Sequence[LayerSpec]):
        self._layers = layers
        self._next = 0

    def attend(self, module, query, key, value, attention_mask, **kwargs):
        if attention_mask is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} builds an attention mask of its own"
            )
        layer = self._next
        if layer >= len(self._layers):
            raise UnsupportedModelError("the model calls attention more often when it is traced")
        self._next += 1
        spec = self._layers[layer]
        out = attention(
            query,
            key,
            value,
            layer,
            spec.scale,
            spec.sliding_window,
            spec.softcap,
            kwargs.get("s_aux") if spec.has_sinks else None,
        )
        return out, None


def graph_digest(traced: torch.jit.ScriptModule) -> str:
    """SHA-256 in hex of what the file computes with weights: its graph, and the buffers that
    are computed from the config (rotary frequencies), which no weights hold."""
    digest = hashlib.sha256("\n".join(_graph_lines(traced)).encode())
    digest.update(weights_digest(dict(traced.named_buffers())).encode())
    return digest.hexdigest()


def _graph_lines(traced: torch.jit.ScriptModule) -> list[str]:
    """One line per node: kind, constants and where its inputs come from. Names of
    values and shapes of the example are left out."""
    graph = traced.inlined_graph
    number = {value.debugName(): index for index, value in enumerate(graph.inputs())}
    return _block_lines(graph, number)


def _block_lines(block, number: dict[str, int]) -> list[str]:
    lines = []
    for node in block.nodes():
        lines.append(f"{node.kind()}({_numbers(node.inputs(), number)}) {_attributes(node)}")
        for inner in node.blocks():
            for value in inner.inputs():
                number[value.debugName()] = len(number)
            lines += _block_lines(inner, number)
        for value in node.outputs():
            number[value.debugName()] = len(number)
    lines.append(f"return({_numbers(block.outputs(), number)})")
    return lines


def _numbers(values, number: dict[str, int]) -> str:
    return ", ".join(f"%{number[value.debugName()]}" for value in values)


def _attributes(node) -> str:
    found = []
    for name in node.attributeNames():
        value = getattr(node, node.kindOf(name))(name)
        if isinstance(value, torch.Tensor):
            value = value.tolist() if value.numel() <= 64 else weights_digest({"": value})
        found.append(f"{name}={value}")
    return "[" + ", ".join(found) + "]"


def _first_difference(first: Sequence[str], second: Sequence[str]) -> str | None:
    for a, b in zip_longest(first, second, fillvalue="(nothing)"):
        if a != b:
            return f"'{a.strip()}' against '{b.strip()}'"
    return None


def _refuse_walks_over_data(caught: Sequence[warnings.WarningMessage]) -> None:
    """Refuses Python loops over tensor data, such as an expert loop.

    Two examples can choose the same experts by chance, so these are refused by the
    tracer's own warning. Its other warnings (reading a shape to compare it) are
    usual and harmless.
    """
    loops = ("Iterating over a tensor", "Converting a tensor to a Python list")
    for warning in caught:
        text = str(warning.message)
        if issubclass(warning.category, torch.jit.TracerWarning) and text.startswith(loops):
            raise UnsupportedModelError(
                f"{warning.filename}:{warning.lineno} walks over tensor data in Python, which a "
                "trace would freeze (a mixture-of-experts loop without an experts interface?)"
            )


def uses_experts(traced: torch.jit.ScriptModule) -> bool:
    """Whether the graph routes tokens to experts."""
    graph = traced.inlined_graph
    return any(graph.findAllNodes(kind) for kind in ("aten::_grouped_mm", "aten::grouped_mm"))


def load_on(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """Loads an exported file to run on `device`."""
    module = torch.jit.load(str(path), map_location=device)
    rewrite_device_constants(module, device)
    return module


def rewrite_device_constants(module: torch.jit.ScriptModule, device: torch.device) -> None:
    """Makes a loaded module create its tensors on `device`.

    Models create tensors on the device they were traced on (the CPU), and the graph
    holds that device as a constant; the engine rewrites it in the same way. To be called
    before the module runs for the first time.
    """
    for part in module.modules():
        for name in part._c._method_names():
            graph = part._c._get_method(name).graph
            for node in graph.findAllNodes("prim::Constant"):
                if node.output().type().kind() == "DeviceObjType":
                    node.s_("value", str(device))
