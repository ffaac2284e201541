"""The tokenizer of a GGUF file: its own tokens, split and framed as the file says."""

import pytest
from gguf_files import architecture_keys, tokenizer_keys, write

from kvtool import gguf_file, gguf_tokenizer, token_bytes
from kvtool.errors import UnsupportedModelError


def tokenizer(tmp_path, kind="gpt2", pre="qwen2", **changed):
    keys = architecture_keys("llama") | tokenizer_keys(kind, pre)
    keys |= {"tokenizer.ggml." + name: value for name, value in changed.items()}
    return gguf_tokenizer.load(gguf_file.read(write(tmp_path / "t.gguf", "llama", keys)))


def with_user_token(kind):
    keys = tokenizer_keys(kind)
    tokens, types = (list(keys["tokenizer.ggml." + name]) for name in ("tokens", "token_type"))
    tokens[370], types[370] = "<think>", 4
    return dict(tokens=tokens, token_type=types)


@pytest.mark.parametrize(
    "kind, pre", [("gpt2", "qwen2"), ("gpt2", "llama-bpe"), ("llama", "default")]
)
def test_user_defined_token_is_one_token(kind, pre, tmp_path):
    made = tokenizer(tmp_path, kind, pre, add_bos_token=False, **with_user_token(kind))
    ids = made("<think>hi")["input_ids"]
    assert ids[0] == 370 and 370 not in ids[1:]
    assert made.decode([370]) == "<think>" and len(made) == 384


@pytest.mark.parametrize(
    "kind, pre, flags, first, last",
    [
        ("llama", "default", {}, True, False),
        ("llama", "default", dict(add_bos_token=False), False, False),
        ("llama", "default", dict(add_eos_token=True), True, True),
        ("gpt2", "llama-bpe", {}, True, False),
        ("gpt2", "llama-bpe", dict(add_bos_token=False), False, False),
        ("gpt2", "qwen2", {}, False, False),
        ("gpt2", "qwen2", dict(add_bos_token=True, add_eos_token=True), True, True),
        ("gpt2", "gpt-2", dict(add_eos_token=True), False, True),
    ],
)
def test_begin_and_end_are_added_as_the_file_says(kind, pre, flags, first, last, tmp_path):
    made = tokenizer(tmp_path, kind, pre, **flags)
    ids = made("hi")["input_ids"]
    assert (ids[0] == 1, ids[-1] == 2) == (first, last)
    assert {1, 2}.isdisjoint(made("hi", add_special_tokens=False)["input_ids"])


def test_pieces_are_merged_by_score(tmp_path):
    """ "▁hit" is best made of "▁hi" and "t": scores fall with the id."""
    made = tokenizer(tmp_path, "llama")
    tokens = tokenizer_keys("llama")["tokenizer.ggml.tokens"]
    assert [tokens[i] for i in made("hit hi")["input_ids"]] == ["<s>", "\u2581hit", "\u2581hi"]
    without = tokenizer(tmp_path, "llama", add_space_prefix=False)
    assert [tokens[i] for i in without("hit")["input_ids"]] == ["<s>", "hi", "t"]
    assert made.decode(made("hit hi é")["input_ids"], skip_special_tokens=True) == "hit hi é"


@pytest.mark.parametrize(
    "pre, words",
    [
        ("qwen2", ["12", "345"]),
        ("llama-bpe", ["12", "345"]),
        ("gpt-2", ["12", "345"]),
        ("smollm", ["12", "345"]),
    ],
)
def test_digits_are_split_as_the_vocabulary_was_made(pre, words, tmp_path):
    made = tokenizer(tmp_path, "gpt2", pre)
    pieces = made.backend_tokenizer.pre_tokenizer.pre_tokenize_str("12345")
    wanted = {
        "qwen2": ["1", "2", "3", "4", "5"], "smollm": ["1", "2", "3", "4", "5"],
        "llama-bpe": ["123", "45"], "gpt-2": ["12345"],
    }[pre]  # fmt: skip
    assert [piece for piece, _ in pieces] == wanted


@pytest.mark.parametrize(
    "changed, word",
    [
        (dict(pre="no-such"), "no-such"),
        (dict(model="bert"), "bert"),
        (dict(remove_extra_whitespaces=True), "remove_extra_whitespaces"),
        (dict(precompiled_charsmap=[1, 2]), "precompiled_charsmap"),
        (dict(bos_token_id=384), "bos_token_id is 384"),
        (dict(token_type=[1, 2]), "token_type has 2"),
        (dict(add_space_prefix=True), "add_space_prefix"),
    ],
)
def test_what_a_tokenizer_cannot_follow_is_refused_with_the_way_out(changed, word, tmp_path):
    with pytest.raises(UnsupportedModelError, match=word) as refused:
        tokenizer(tmp_path, **changed)
    assert "--no-tokenizer" in str(refused.value)


def test_no_token_beyond_the_file_is_invented(tmp_path):
    for architecture, kind in (("phi3", "llama"), ("qwen2", "gpt2"), ("gemma2", "llama")):
        keys = architecture_keys(architecture) | tokenizer_keys(kind)
        file = gguf_file.read(write(tmp_path / "t.gguf", architecture, keys))
        made = gguf_tokenizer.load(file)
        assert len(made) == 384 and max(made.get_vocab().values()) == 383
        assert set(made.get_vocab()) == set(keys["tokenizer.ggml.tokens"])


@pytest.mark.parametrize("kind, pre", [("gpt2", "qwen2"), ("llama", "default")])
def test_tokens_are_shown_as_the_tokenizer_decodes_them(kind, pre, tmp_path):
    changed = with_user_token(kind)
    changed["tokens"][371:374] = ["\u2581" * 3, "caf\u00e9\u2581x", "\u0120y"]
    changed["token_type"][371:374] = [4, 4, 1]
    made = tokenizer(tmp_path, kind, pre, **changed)
    table = token_bytes.table_of(made, 384)
    t = made.convert_tokens_to_ids("t")
    assert table[370] == b"<think>"
    assert table[371] == (b"   " if kind == "llama" else "\u2581\u2581\u2581".encode())
    for token_id in range(384):
        text = made.backend_tokenizer.decode([t, token_id, t], skip_special_tokens=False)
        assert (b"t" + table[token_id] + b"t").decode(errors="replace") == text
