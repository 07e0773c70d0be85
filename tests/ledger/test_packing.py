"""How content is stored."""

from __future__ import annotations

import random
import zlib
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given, strategies as st

from grpo_audit.ledger.packing import ABOVE, PLAIN, ZLIB, ZSTD, pack, unpack


@given(st.binary(max_size=200), st.integers(1, 60))
def test_unpack_undoes_pack(data: bytes, times: int) -> None:
    """unpack(*pack(data)) == data, and nothing becomes larger."""
    encoding, stored = pack(data * times)
    assert unpack(encoding, stored) == data * times
    assert len(stored) <= len(data) * times


def test_what_is_short_stays_readable() -> None:
    """Below the limit content is stored as it is, however well it would compress."""
    data = b"a" * (ABOVE - 1)
    assert pack(data) == (PLAIN, data)
    assert pack(data + b"a")[0] == ZSTD


def test_what_does_not_compress_stays_plain() -> None:
    """Random bytes are stored as they are."""
    data = random.Random(0).randbytes(ABOVE * 4)
    assert pack(data) == (PLAIN, data)


def test_records_of_schema_1_are_read() -> None:
    """zlib content unpacks."""
    assert unpack(ZLIB, zlib.compress(b"text" * 100)) == b"text" * 100


def test_a_frame_over_two_gigabytes_is_refused_unread() -> None:
    """A bomb states its size, and is refused for it; one that does not state a size is refused too."""
    header = b"\x28\xb5\x2f\xfd\xe0" + (2 << 30).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(ValueError, match="larger than allowed"):
        unpack(ZSTD, header)
    stream = zstandard.ZstdCompressor().compressobj()
    silent = stream.compress(b"x" * 1000) + stream.flush()
    with pytest.raises(ValueError, match="does not state its size"):
        unpack(ZSTD, silent)


_PACKED = pack(bytes(range(256)) * 40)[1]


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        (ZSTD, _PACKED[:-1]),
        (ZSTD, _PACKED + b"x"),
        (ZSTD, _PACKED + _PACKED),
        (ZSTD, b""),
        (ZSTD, b"no frame"),
        (ZLIB, zlib.compress(b"a")[:-1]),
        (ZLIB, zlib.compress(b"a") + b"x"),
        ("rot13", b"a"),
        (None, b"a"),
        (PLAIN, "text"),
        (ZSTD, None),
    ],
)
def test_broken_content_is_refused(encoding: object, data: object) -> None:
    """Cut frames, anything behind a frame, unknown encodings and other types raise ValueError, and nothing else."""
    with pytest.raises(ValueError):
        unpack(encoding, data)


@given(st.sampled_from([ZSTD, ZLIB]), st.binary(max_size=60), st.integers(0, 60))
def test_any_bytes_unpack_or_raise_value_error(encoding: str, junk: bytes, at: int) -> None:
    """No bytes crash the reader, behind or inside of a good frame."""
    for data in (junk, _PACKED[:at] + junk + _PACKED[at + len(junk) :]):
        with suppress(ValueError):
            unpack(encoding, data)
