"""How content is stored: as it is, or compressed. Digests are over the plain bytes, so packing proves nothing.

What is short stays plain, so that ``sqlite3`` and Datasette show short texts; the rest are Zstandard frames (RFC
8878, level 1). ``zlib`` (RFC 1950) is read, because records of schema 1 have it, and no longer written.
"""

from __future__ import annotations

import threading
import zlib
from typing import Final

import zstandard

PLAIN: Final = "plain"
ZSTD: Final = "zstd"
ZLIB: Final = "zlib"

ABOVE: Final = 1024
"""Bytes from which content is compressed; below it the time costs more than the space."""
MAX_CONTENT: Final = 1 << 30
"""Bytes that one piece of content may unpack to."""

_LEVEL: Final = 1  # level 3 saves 1 % of a trace's bytes and takes a fifth longer


class _Tools(threading.local):
    """zstandard's objects belong to one thread each."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
        self.decompressor = zstandard.ZstdDecompressor()


_TOOLS = _Tools()


def pack(data: bytes) -> tuple[str, bytes]:
    """Encoding and bytes to store for a piece of content."""
    if len(data) < ABOVE:
        return PLAIN, data
    packed = _TOOLS.compressor.compress(data)
    return (ZSTD, packed) if len(packed) < len(data) else (PLAIN, data)


def unpack(encoding: object, data: object) -> bytes:
    """The plain bytes of a content row. Raises ValueError when the data is broken or unreasonably large."""
    if not isinstance(data, bytes):
        raise ValueError(f"data is {type(data).__name__}, not bytes")
    if encoding == PLAIN:
        return data
    if encoding == ZSTD:
        return _from_zstd(data)
    if encoding == ZLIB:
        return _from_zlib(data)
    raise ValueError(f"unknown encoding {encoding!r:.40}")


def _from_zstd(data: bytes) -> bytes:
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= MAX_CONTENT:  # -1: the frame does not say
            raise ValueError("zstd data that does not state its size, or one larger than allowed")
        plain = _TOOLS.decompressor.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"broken zstd data: {error}") from error
    if len(plain) != size:
        raise ValueError("zstd data of another size than it states")
    return plain


def _from_zlib(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, MAX_CONTENT)
    except zlib.error as error:
        raise ValueError(f"broken zlib data: {error}") from error
    if unpacker.unconsumed_tail or unpacker.unused_data or not unpacker.eof:
        raise ValueError("zlib data that is cut, larger than allowed or has something behind it")
    return plain
