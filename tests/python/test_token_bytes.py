"""The bytes of every token id, against what the tokenizers themselves decode."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
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
