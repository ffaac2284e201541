"""Tiny causal language models with random weights, one per supported family.

They have the features that make their families different (grouped heads, windows
shorter than a test prompt, soft caps, sinks, experts, key and value dimensions that
differ) at a size that traces in a second. With a fixed seed the weights are the
same everywhere.

    python -m kvtool.tiny_models --list
    python -m kvtool.tiny_models --family llama --output DIR [--seed N]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

# Larger than the tokenizer's vocabulary on purpose: real models pad their logits.
VOCAB_SIZE = 384
MAX_POSITIONS = 256
# Shorter than the prompts of the tests, so that windows really cut.
SLIDING_WINDOW = 8

_COMMON = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=MAX_POSITIONS,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
_GATED = dict(_COMMON, intermediate_size=96, num_key_value_heads=2)
_EXPERTS = dict(num_experts_per_tok=2, moe_intermediate_size=48)
_GPT2_LIKE = dict(
    vocab_size=VOCAB_SIZE,
    n_embd=64,
    n_layer=2,
    n_head=4,
    n_positions=MAX_POSITIONS,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)


@dataclass(frozen=True)
class Family:
    """One family: the name of its config class in transformers and the settings."""

    config_class: str
    settings: dict


FAMILIES: dict[str, Family] = {
    "gpt2": Family("GPT2Config", _GPT2_LIKE),
    "llama": Family("LlamaConfig", dict(_GATED)),
    "mistral": Family("MistralConfig", dict(_GATED, sliding_window=SLIDING_WINDOW)),
    "qwen2": Family(
        "Qwen2Config",
        # Windows on the upper layers only, as max_window_layers arranges it.
        dict(
            _GATED,
            num_hidden_layers=3,
            use_sliding_window=True,
            sliding_window=SLIDING_WINDOW,
            max_window_layers=1,
            tie_word_embeddings=True,
        ),
    ),
    "qwen3": Family("Qwen3Config", dict(_GATED, head_dim=24)),
    "qwen3_moe": Family(
        "Qwen3MoeConfig",
        dict(_GATED, head_dim=16, num_experts=8, norm_topk_prob=True, **_EXPERTS),
    ),
    "gemma2": Family(
        "Gemma2Config",
        dict(
            _GATED,
            head_dim=16,
            query_pre_attn_scalar=24,
            sliding_window=SLIDING_WINDOW,
            attn_logit_softcapping=5.0,
            tie_word_embeddings=False,
            final_logit_softcapping=20.0,
        ),
    ),
    "gemma3": Family(
        "Gemma3TextConfig",
        dict(
            _GATED,
            num_hidden_layers=3,
            head_dim=16,
            query_pre_attn_scalar=24,
            sliding_window=SLIDING_WINDOW,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            tie_word_embeddings=False,
        ),
    ),
    "phi3": Family("Phi3Config", dict(_GATED, sliding_window=SLIDING_WINDOW)),
    "gpt_neox": Family("GPTNeoXConfig", dict(_COMMON, intermediate_size=96, rotary_pct=0.25)),
    "opt": Family("OPTConfig", dict(_COMMON, ffn_dim=96, word_embed_proj_dim=48, dropout=0.1)),
    "deepseek_v3": Family(
        "DeepseekV3Config",
        dict(
            _COMMON,
            intermediate_size=96,
            num_hidden_layers=3,
            num_key_value_heads=4,
            n_routed_experts=8,
            n_group=2,
            topk_group=1,
            n_shared_experts=1,
            first_k_dense_replace=1,
            q_lora_rank=24,
            kv_lora_rank=16,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=20,
            **_EXPERTS,
        ),
    ),
    "mixtral": Family(
        "MixtralConfig",
        dict(_GATED, num_local_experts=4, num_experts_per_tok=2, sliding_window=SLIDING_WINDOW),
    ),
    "gpt_oss": Family(
        "GptOssConfig",
        dict(
            _GATED,
            head_dim=16,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=SLIDING_WINDOW,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
    ),
    "olmo2": Family("Olmo2Config", dict(_GATED)),
    "stablelm": Family("StableLmConfig", dict(_GATED, partial_rotary_factor=0.5)),
    "smollm3": Family(
        "SmolLM3Config",
        # Every second layer without rotary positions.
        dict(_GATED, no_rope_layer_interval=2),
    ),
    "gpt_bigcode": Family("GPTBigCodeConfig", dict(_GPT2_LIKE, multi_query=True)),
}

_LAST_NORMS = ("model.norm.weight", ".ln_f.weight", ".final_layer_norm.weight")

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_TOKENIZER_CORPUS = (
    "The cache keeps one key and one value row for every position, layer and head.",
    "A recording made on one device is replayed on another device and compared with it.",
    "If the tokens are the same, the devices agree; if not, the report shows where and why.",
    "def attention(query, key, value):\n    return softmax(query @ key.T) @ value\n",
    "Größe, naïve, 日本語, 0123456789, {}[]()<>\t\n",
)


def build_model(family: str, seed: int = 0):
    """The tiny model of `family` in float32 evaluation mode.

    Raises KeyError for an unknown family.
    """
    return model_of(config_of(family), seed)


def config_of(family: str):
    """The transformers config of `family`. Raises KeyError for an unknown family."""
    import transformers

    entry = FAMILIES[family]
    return getattr(transformers, entry.config_class)(**entry.settings)


def model_of(config, seed: int = 0):
    """The causal language model of a transformers config with the random weights of `seed`, in
    float32 evaluation mode."""
    import torch
    import transformers

    # What _randomize() only adds to starts out random in some classes (sinks, router biases).
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _randomize(model, seed)
    model.generation_config.eos_token_id = getattr(config, "eos_token_id", None)
    return model.eval()


def _randomize(model, seed: int) -> None:
    """Weights with enough spread that attention, routing and greedy tokens vary.

    The usual initial deviation of 0.02 makes all logits of a tiny model nearly
    equal: every comparison would pass, and greedy decoding would repeat one token.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    # With tied embeddings the current token is its own best continuation unless the
    # layers outweigh it; the last norm then gives the logits their spread back.
    tied = getattr(model.config, "tie_word_embeddings", False)
    embedding_scale = 0.05 if tied else 1.0
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() < 2:
                # Norm weights stay near their initial value, biases and sinks near 0.
                parameter.add_(noise * 0.2)
                if tied and name.endswith(_LAST_NORMS):
                    parameter.add_(3.0)
            elif "embed" in name or "wte" in name or "lm_head" in name:
                parameter.copy_(noise * embedding_scale)
            else:
                parameter.copy_(noise * (1.5 / parameter.shape[-1] ** 0.5))
        for name, buffer in sorted(model.named_buffers()):
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)


def build_tokenizer():
    """A byte-level BPE tokenizer, trained here on a few sentences: ids 0, 1, 2 are
    padding, begin and end of sequence."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 32,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TOKENIZER_CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def save(family: str, directory: Path, seed: int = 0) -> None:
    """Writes model and tokenizer so that `export_model.py --model DIRECTORY` loads them."""
    build_model(family, seed).save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kvtool.tiny_models",
        description="Writes a tiny causal language model with random weights.",
    )
    parser.add_argument("--list", action="store_true", help="print the families and stop")
    parser.add_argument("--family", choices=sorted(FAMILIES), metavar="FAMILY")
    parser.add_argument("--output", type=Path, metavar="DIR", help="model directory to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default 0)")
    options = parser.parse_args(argv)
    if options.list:
        print("\n".join(FAMILIES))
        return 0
    if not options.family or not options.output:
        parser.error("--family and --output are needed (or --list)")
    save(options.family, options.output, options.seed)
    print(f"{options.output}: {options.family}, seed {options.seed}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
