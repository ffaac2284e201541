"""XXH3-64 and zstd from the system's libraries, which building kvtool needs, too."""

import ctypes
import ctypes.util


def _library(name: str, debian: str) -> ctypes.CDLL:
    found = ctypes.util.find_library(name)
    if found is None:
        raise OSError(f"lib{name} is missing: install it (Debian's package {debian})")
    return ctypes.CDLL(found)


_xxhash = _library("xxhash", "libxxhash0")
_xxhash.XXH3_64bits.restype = ctypes.c_uint64
_xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]

_zstd = _library("zstd", "libzstd1")
_zstd.ZSTD_decompress.restype = ctypes.c_size_t
_zstd.ZSTD_decompress.argtypes = [
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.c_char_p,
    ctypes.c_size_t,
]
_zstd.ZSTD_compress.restype = ctypes.c_size_t
_zstd.ZSTD_compress.argtypes = [*_zstd.ZSTD_decompress.argtypes, ctypes.c_int]


def checksum(data: bytes) -> int:
    """XXH3-64 with seed 0."""
    return _xxhash.XXH3_64bits(bytes(data), len(data))


def decompress(frame: bytes, size: int) -> bytes | None:
    """What the zstd frame holds if that is exactly `size` bytes."""
    target = ctypes.create_string_buffer(size)
    found = _zstd.ZSTD_decompress(target, size, bytes(frame), len(frame))
    return target.raw if found == size else None


def compress(data: bytes) -> bytes:
    """One zstd frame."""
    target = ctypes.create_string_buffer(len(data) + 1024)
    size = _zstd.ZSTD_compress(target, len(target), bytes(data), len(data), 3)
    return target.raw[:size]
