"""The tokenizer that a GGUF file describes, made of the file's own tokens and no others.

transformers' converters for these files add tokens of a model of that name, do not know
user-defined tokens, never add the begin of a text, and split words like GPT-2. Here llama.cpp's
reading of the keys is followed (src/llama-vocab.cpp): byte pairs with merges ("gpt2") and
pieces with scores ("llama"). Anything else, and any key with no place, is refused by name.
"""

from __future__ import annotations

import re

from kvtool.errors import UnsupportedModelError
from kvtool.gguf_file import GgufFile

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4

# Keys read here, or by gguf_config.apply_to_generation.
_READ = frozenset(
    {
        "tokenizer.chat_template", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token",
        "tokenizer.ggml.add_space_prefix", "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eom_token_id", "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id", "tokenizer.ggml.merges", "tokenizer.ggml.model",
        "tokenizer.ggml.padding_token_id", "tokenizer.ggml.pre", "tokenizer.ggml.scores",
        "tokenizer.ggml.token_type", "tokenizer.ggml.tokens", "tokenizer.ggml.unknown_token_id",
    }
)  # fmt: skip

# Keys that say nothing of how a text or a chat is encoded.
HARMLESS = (
    # Tokens around a hole to fill in, or for masks and pairs of texts: a caller puts them.
    r"tokenizer\.ggml\.(fim_(pre|suf|mid|pad|rep|sep)|prefix|suffix|middle|mask|cls)_token_id",
    r"tokenizer\.ggml\.sep(e|a)rator_token_id",
    # How many kinds of token there are for BERT's second text.
    r"tokenizer\.ggml\.token_type_count",
    # Further templates, which are used by name only.
    r"tokenizer\.chat_templates|tokenizer\.chat_template\..+",
)

# Keys whose work is not done here, with the values that ask for none.
_NEUTRAL = {
    "tokenizer.ggml.add_sep_token": (False,),
    "tokenizer.ggml.remove_extra_whitespaces": (False,),
    "tokenizer.ggml.precompiled_charsmap": ([], ""),
}

_GPT2 = None  # what ByteLevel itself does
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_AROUND = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _AROUND
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _AROUND
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_AROUND_O = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _words_by_case(end: str, digits: str) -> str:
    before = r"[^\r\n\p{L}\p{N}]?"
    return f"{before}{_UPPER}*{_LOWER}+{end}|{before}{_UPPER}+{_LOWER}*{end}|{digits}" + _AROUND_O


_GPT4O = _words_by_case(_CONTRACTION + "?", r"\p{N}{1,3}")
_TEKKEN = _words_by_case("", r"\p{N}")
_DIGITS_APART = "digits"

# tokenizer.ggml.pre -> how text is split into words before pairs are merged.
_SPLITTING = {
    **dict.fromkeys(("default", "gpt-2", "gpt2", "phi-2", "olmo", "roberta-bpe"), _GPT2),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _DIGITS_APART
    ),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe", "dbrx"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"), _QWEN2),
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
    "tekken": _TEKKEN,
}  # fmt: skip

# Where a whole word that is a token needs no merges, and the text begins with BOS.
_WHOLE_WORDS_AND_BOS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")

_PHI3_KEEPS_SPACE_BEHIND = ("<unk>", "<s>", "<|endoftext|>")


def load(file: GgufFile):
    """A transformers tokenizer, or None for a file that says it has none.

    Raises UnsupportedModelError for what cannot be followed.
    """
    kind = file.tokenizer("model")
    if kind in (None, "none", "no_vocab"):
        return None
    if kind not in ("gpt2", "llama"):
        _refuse(file, f"tokenizer.ggml.model is '{kind}'; read are 'gpt2' and 'llama'")
    _require_read(file)
    tokens = file.tokenizer("tokens")
    if not tokens:
        _refuse(file, "has no tokenizer.ggml.tokens")
    if len(set(tokens)) != len(tokens):
        _refuse(file, "tokenizer.ggml.tokens holds a token twice")
    types = file.tokenizer("token_type") or [_NORMAL] * len(tokens)
    if len(types) != len(tokens):
        _refuse(
            file, f"tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens"
        )
    backend = _byte_pairs(file, tokens) if kind == "gpt2" else _pieces(file, tokens, types)
    _add_whole_tokens(file, backend, tokens, types)
    ids = _special_ids(file, kind, len(tokens))
    _add_ends(file, kind, backend, tokens, ids)
    return _wrapped(file, backend, tokens, ids)


def _require_read(file: GgufFile) -> None:
    for key, value in file.values.items():
        if not key.startswith("tokenizer.") or key in _READ:
            continue
        if any(re.fullmatch(pattern, key) for pattern in HARMLESS):
            continue
        if key not in _NEUTRAL or value not in _NEUTRAL[key]:
            _refuse(file, f"the key {key} is not followed")


def _byte_pairs(file: GgufFile, tokens: list[str]):
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = file.tokenizer("merges")
    if merges is None:
        _refuse(file, "has no tokenizer.ggml.merges")
    if file.tokenizer("add_space_prefix"):
        _refuse(file, "the key tokenizer.ggml.add_space_prefix is not followed for byte pairs")
    name = file.tokenizer("pre") or "default"
    if name not in _SPLITTING:
        _refuse(file, f"tokenizer.ggml.pre is '{name}': how it splits text is not known")
    backend = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=_pairs(file, merges),
            ignore_merges=name in _WHOLE_WORDS_AND_BOS,
        )
    )
    splitting = _SPLITTING[name]
    if splitting is _GPT2:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif splitting == _DIGITS_APART:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(splitting), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if splitting is _QWEN2:
        backend.normalizer = normalizers.NFC()  # as the original tokenizers do
    backend.decoder = decoders.ByteLevel()
    return backend


def _pairs(file: GgufFile, merges: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for merge in merges:
        left, space, right = merge.partition(" ")
        if not space or not left or not right:
            _refuse(file, f"tokenizer.ggml.merges holds '{merge}', which is no pair")
        pairs.append((left, right))
    return pairs


def _pieces(file: GgufFile, tokens: list[str], types: list[int]):
    """Pieces of SentencePiece: of all neighbours, those whose piece has the best score are
    merged first. tokenizers has merges in order instead, which are made of the scores."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = file.tokenizer("scores")
    merges = file.tokenizer("merges")
    if merges is not None:
        pairs = _pairs(file, merges)
    elif scores is None or len(scores) != len(tokens):
        _refuse(file, "has not as many tokenizer.ggml.scores as tokens")
    else:
        pairs = _pairs_by_score(tokens, types, scores)
    unknown = file.tokenizer("unknown_token_id", 0)
    backend = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=pairs,
            unk_token=tokens[unknown] if unknown < len(tokens) else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    begins_with_space = file.tokenizer("add_space_prefix", True)
    steps = [normalizers.Prepend("\u2581")] if begins_with_space else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    ends = [decoders.Strip(" ", 1, 0)] if begins_with_space else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    return backend


def _pairs_by_score(tokens: list[str], types: list[int], scores: list[float]) -> list:
    places = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_NORMAL, _USER_DEFINED)
    }
    found = []
    for piece, index in places.items():
        for cut in range(1, len(piece)):
            left, right = places.get(piece[:cut]), places.get(piece[cut:])
            if left is not None and right is not None:
                found.append((-scores[index], left, right, piece[:cut], piece[cut:]))
    return [(left, right) for *_, left, right in sorted(found)]


def _add_whole_tokens(file: GgufFile, backend, tokens: list[str], types: list[int]) -> None:
    """Tokens that a text may hold as they are written: no normal piece of it is cut out of
    them, and they are not merged from others."""
    from tokenizers import AddedToken

    special, plain = [], []
    for token, kind in zip(tokens, types, strict=True):
        if kind in (_CONTROL, _UNKNOWN):
            strips = (
                file.architecture == "phi3"
                and file.tokenizer("model") == "llama"
                and token not in _PHI3_KEEPS_SPACE_BEHIND
            )
            special.append(AddedToken(token, normalized=False, special=True, rstrip=strips))
        elif kind == _USER_DEFINED:
            plain.append(AddedToken(token, normalized=False, special=False))
    backend.add_special_tokens(special)
    backend.add_tokens(plain)


def _special_ids(file: GgufFile, kind: str, count: int) -> dict[str, int | None]:
    # llama.cpp's ids for pieces where the file names none.
    defaults = {"bos": 1, "eos": 2, "unknown": 0} if kind == "llama" else {}
    ids = {}
    for name in ("bos", "eos", "padding", "unknown"):
        token_id = file.tokenizer(f"{name}_token_id", defaults.get(name))
        if token_id is not None and not 0 <= token_id < count:
            _refuse(file, f"tokenizer.ggml.{name}_token_id is {token_id}, of {count} tokens")
        ids[name] = token_id
    return ids


def _add_ends(file: GgufFile, kind: str, backend, tokens: list[str], ids: dict) -> None:
    """The begin and the end of a text, where the file or llama.cpp adds them."""
    from tokenizers import processors

    by_default = kind == "llama" or file.tokenizer("pre") in _WHOLE_WORDS_AND_BOS
    wanted = {
        "bos": file.tokenizer("add_bos_token", by_default),
        "eos": file.tokenizer("add_eos_token", False),
    }
    added = [name for name, is_wanted in wanted.items() if is_wanted]
    for name in added:
        if ids[name] is None:
            _refuse(file, f"adds a token to texts, but has no tokenizer.ggml.{name}_token_id")
    steps = [processors.ByteLevel(trim_offsets=False)] if kind == "gpt2" else []
    if added:
        names = {name: tokens[ids[name]] for name in added}
        pieces = [names[name] for name in added if name == "bos"] + ["$A"]
        pieces += [names[name] for name in added if name == "eos"]
        steps.append(
            processors.TemplateProcessing(
                single=pieces,
                special_tokens=[(token, ids[name]) for name, token in names.items()],
            )
        )
    if steps:
        backend.post_processor = processors.Sequence(steps)


def _wrapped(file: GgufFile, backend, tokens: list[str], ids: dict):
    from transformers import PreTrainedTokenizerFast

    names = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    special = {
        names[name]: tokens[token_id] for name, token_id in ids.items() if token_id is not None
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **special
    )
    if len(tokenizer) != len(tokens):
        _refuse(file, f"its tokenizer would have {len(tokenizer)} tokens instead of {len(tokens)}")
    tokenizer.chat_template = file.values.get("tokenizer.chat_template")
    return tokenizer


def _refuse(file: GgufFile, what: str):
    raise UnsupportedModelError(
        f"{file.path}: {what}; add --no-tokenizer to export the model without its tokenizer "
        "(prompts then have to be given as token ids)"
    )
