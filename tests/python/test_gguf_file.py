"""What many parts need of a GGUF file is read once, and read anew when the file changes."""

import gguf
import pytest
from gguf_files import architecture_keys, tokenizer_keys, write

from kvtool import gguf_file


@pytest.fixture
def parsed(monkeypatch):
    """The paths that gguf has parsed."""
    paths = []

    class Counted(gguf.GGUFReader):
        def __init__(self, path, *arguments):
            paths.append(str(path))
            super().__init__(path, *arguments)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    return paths


def small_file(path, context_length=256):
    return write(path, "llama", architecture_keys("llama", context_length=context_length)
                 | tokenizer_keys())


def test_a_file_is_parsed_once_while_it_is_shared(parsed, tmp_path):
    path = small_file(tmp_path / "a.gguf")
    with gguf_file.reading_once():
        first, second = gguf_file.read(path), gguf_file.read(str(path))
        assert gguf.GGUFReader(path).fields.keys() >= first.values.keys()
    assert first.values == second.values and first.get("context_length") == 256
    assert len(parsed) == 1
    gguf_file.read(path)
    assert len(parsed) == 2


def test_a_file_that_has_changed_is_parsed_again(parsed, tmp_path):
    with gguf_file.reading_once():
        assert gguf_file.read(small_file(tmp_path / "a.gguf")).get("context_length") == 256
        other = small_file(tmp_path / "b.gguf", context_length=128)
        other.replace(tmp_path / "a.gguf")
        assert gguf_file.read(tmp_path / "a.gguf").get("context_length") == 128
    assert len(parsed) == 2


def test_names_are_mapped_once_for_a_model(monkeypatch):
    made = []
    monkeypatch.setattr(gguf, "get_tensor_name_map", lambda arch, blocks: made.append(arch) or {})
    with gguf_file.reading_once():
        for _ in range(3):
            gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    assert len(made) == 2


def test_an_error_leaves_gguf_as_it_was(tmp_path):
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with pytest.raises(OSError), gguf_file.reading_once():
        gguf.GGUFReader(tmp_path / "missing.gguf")
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
