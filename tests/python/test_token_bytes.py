"""The bytes of every token id, against what the tokenizers themselves decode."""

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import CTRLTokenizer, PreTrainedTokenizerFast

from kvtool import token_bytes

TEXTS = [
    "Hello world, it's 2024!",
    "  spaces   and\ttabs\n\nlines\r\n",
    "Größe naïve 日本語 русский \U0001f600\u200d e\u0301",
    "def f(x):\n    return {x: [1, 2]}  # note",
]


def joined(table, ids):
    return b"".join(table[token_id] for token_id in ids)


def assert_text_survives(tokenizer, table, texts):
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert joined(table, ids) == text.encode()
        decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert joined(table, ids).decode() == decoded


def test_smollm2(smollm2, tokenizer_of):
    table = token_bytes.decode(smollm2.extra_files["token_bytes.bin"])
    assert len(table) == smollm2.metadata["vocab_size"]
    assert table[0] == b"<|endoftext|>" and table[2] == b"<|im_end|>"
    assert_text_survives(tokenizer_of(smollm2), table, TEXTS)


def test_byte_level_model_with_padded_logits(exported, tokenizer_of):
    model = exported("llama")
    table = token_bytes.decode(model.extra_files["token_bytes.bin"])
    tokenizer = tokenizer_of(model)
    assert len(table) == 384 > len(tokenizer)
    assert set(table[len(tokenizer) :]) == {b""}
    assert table[:3] == [b"<pad>", b"<s>", b"</s>"]
    assert_text_survives(tokenizer, table, TEXTS)
    # Characters are cut across tokens: single tokens need not be valid UTF-8.
    assert any(not _is_utf8(piece) for piece in table)


def _is_utf8(piece):
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def sentencepiece_like():
    """Unigram pieces with U+2581 for spaces and bytes for everything else, as Llama 2 has."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    pieces += [
        ("\u2581", -3.0),
        ("\u2581the", -1.0),
        ("\u2581cat", -1.0),
        ("s", -2.0),
        ("at", -2.0),
    ]
    pieces += [(char, -4.0) for char in "abcdefghijklmnopqr tuvwxyz"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def test_sentencepiece_like():
    tokenizer = sentencepiece_like()
    table = token_bytes.table_of(tokenizer, len(tokenizer) + 2)
    vocabulary = tokenizer.get_vocab()
    assert table[vocabulary["\u2581cat"]] == b" cat"
    assert table[vocabulary["<0xE6>"]] == b"\xe6"
    assert table[1] == b"<s>" and table[-1] == b""
    assert_text_survives(tokenizer, table, ["the cats at 日本", " the cat", "\U0001f600 s\n"])


def test_metaspace():
    backend = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("\u2581the", -1.0), ("\u2581", -2.0), ("cat", -1.0)], 0)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    table = token_bytes.table_of(tokenizer, 4)
    ids = tokenizer("the cat")["input_ids"]
    # The word mark of the first word is a space; decode() drops it.
    assert joined(table, ids) == b" the cat"


def test_word_pieces():
    backend = Tokenizer(
        models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2, "chess": 3}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    table = token_bytes.table_of(tokenizer, 4)
    assert joined(table, tokenizer("playing chess")["input_ids"]) == b" playing chess"


ADDED = [
    "\u2581" * 2, "\u2581" * 7, "\u2581x", "\n", "\t\t", " ", "  ", " foo", "\u00e9", "\u0120\u00e9",
    "<\uff5cbegin\u2581of\u2581text\uff5c>", "<|im_end|>", "caf\u00e9 bar", "\u0120the", "##end", "end</w>",
    "\U0001f600", "<0x0A>", "\u010a",
]  # fmt: skip
WORD = "word"


def with_added(model, decoder):
    """A tokenizer of this model and decoder, with tokens of every kind added behind."""
    backend = Tokenizer(model)
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in ADDED[::3]])
    backend.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def words(*tokens):
    return models.WordLevel({token: i for i, token in enumerate(dict.fromkeys(tokens))}, WORD)


def byte_pairs():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return models.BPE(vocab={t: i for i, t in enumerate([*alphabet, WORD])}, merges=[])


PIECES = [WORD, "\u2581", "\u2581the", "a\u2581b", "s", "."]
FALLBACK = [f"<0x{byte:02X}>" for byte in range(128)] + ["<0x0a>", "<0x4G>", "<0x123>"]
DECODERS = {
    "byte level": (byte_pairs(), decoders.ByteLevel()),
    "metaspace": (words(*PIECES), decoders.Metaspace()),
    "another metaspace": (words(WORD, "_the", "a_b"), decoders.Metaspace("_", "never")),
    "llama": (
        words(*PIECES, *FALLBACK),
        decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
    ),
    "strip every token": (words(WORD, " s", "  t "), decoders.Strip(" ", 1, 0)),
    "word pieces": (
        words(WORD, "##ing", ".", "n't", "'", "##", "#"), decoders.WordPiece(),
    ),
    "word pieces as they are": (words(WORD, "##ing", "."), decoders.WordPiece(cleanup=False)),
    "word ends": (words(WORD, "re", "act</w>", "a</w>b", "s"), decoders.BPEDecoder()),
    "no decoder": (words(WORD, "a", "b"), None),
}


@pytest.mark.parametrize("name", list(DECODERS))
def test_every_token_in_a_text_as_its_decoder_shows_it(name):
    tokenizer = with_added(*DECODERS[name])
    table = token_bytes.table_of(tokenizer, len(tokenizer))
    word = tokenizer.convert_tokens_to_ids(WORD)
    generator = random.Random(7)
    ids = list(range(len(tokenizer)))
    texts = [[token, word] for token in ids] + [[token, token, word] for token in ids]
    texts += [generator.choices(ids, k=8) + [word] for _ in range(200)]
    for text in texts:
        wanted = tokenizer.backend_tokenizer.decode([word, *text], skip_special_tokens=False)
        # The first word of a text has no space before it where others have one.
        got = WORD.encode() + joined(table, text)
        if name == "word ends":
            wanted = wanted.removesuffix(WORD) + WORD  # the last word keeps no space behind
        assert got.decode(errors="replace") == wanted, text


def test_added_runs_of_spaces_are_spaces():
    tokenizer = with_added(*DECODERS["llama"])
    table = token_bytes.table_of(tokenizer, len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids([WORD, "\u2581" * 7, WORD])
    assert joined(table, ids) == b"word       word"


def test_tokens_of_gguf_files(smollm2, tokenizer_of):
    table = token_bytes.decode(smollm2.extra_files["token_bytes.bin"])
    backend = tokenizer_of(smollm2).backend_tokenizer
    for token_id in range(len(table)):
        text = backend.decode([token_id], skip_special_tokens=False)
        assert table[token_id].decode(errors="replace") == text


def slow_tokenizer(directory):
    """A tokenizer in plain Python, without a tokenizer.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(
        '{"<unk>": 0, "a@@": 1, "dapt": 2, "re@@": 3, "act</w>": 4, "apt": 5, "react": 6, "adapt": 7}'
    )
    (directory / "merges.txt").write_text("#version: 0.2\na d\nr e\n")
    return CTRLTokenizer(str(directory / "vocab.json"), str(directory / "merges.txt"))


def test_tokenizer_without_backend_uses_its_decoder(tmp_path):
    tokenizer = slow_tokenizer(tmp_path)
    assert getattr(tokenizer, "backend_tokenizer", None) is None
    table = token_bytes.table_of(tokenizer, 9)
    for token_id in range(1, 8):
        text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        assert table[token_id] == text.encode()
    assert table[6] == b"react" and table[8] == b""


def test_without_tokenizer_all_empty():
    assert token_bytes.table_of(None, 3) == [b"", b"", b""]


def test_file_round_trip():
    table = [b"", b"a", bytes(range(256)), b"", "日".encode()]
    content = token_bytes.encode(table)
    assert content[:4] == (5).to_bytes(4, "little")
    assert content[4:12] == bytes(8)  # offsets 0 and 0: the first token is empty
    assert token_bytes.decode(content) == table


@pytest.mark.parametrize("cut", [0, 3, 4, 10, 20, 25])
def test_cut_file_is_refused(cut):
    content = token_bytes.encode([b"abc", b"d", b"efg"])
    with pytest.raises(ValueError):
        token_bytes.decode(content[:cut])
