"""Putting the certificates of a time-stamp into DER order.

OpenSSL, and so many an authority, writes the certificates of a token in the order it has them; DER wants a SET sorted,
and the library that reads tokens insists. The certificates are not covered by the signature, so sorting changes nothing
that was said.
"""

from __future__ import annotations

_CONTEXT_0 = 0xA0
_CERTIFICATES = (1, 1, 0, 3)
"""Where they are: in TimeStampResp the timeStampToken, its content, SignedData, after version, digests and content."""


def sorted_certificates(response: bytes) -> bytes:
    """The same response with its certificates in DER order; unchanged when it holds none. Raises ValueError."""
    return _rebuilt(response, _CERTIFICATES)


def _rebuilt(element: bytes, path: tuple[int, ...]) -> bytes:
    tag, content = _only(element)
    children = _children(content)
    if not path:
        return _encoded(tag, b"".join(sorted(children))) if tag == _CONTEXT_0 else element
    if len(children) <= path[0]:
        return element
    children[path[0]] = _rebuilt(children[path[0]], path[1:])
    return _encoded(tag, b"".join(children))


def _only(data: bytes) -> tuple[int, bytes]:
    tag, start, stop = _header(data, 0)
    if stop != len(data):
        raise ValueError("something stands behind the response")
    return tag, data[start:stop]


def _children(content: bytes) -> list[bytes]:
    at, found = 0, []
    while at < len(content):
        _, _, stop = _header(content, at)
        found.append(content[at:stop])
        at = stop
    return found


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, where the content starts, where it stops."""
    if at + 2 > len(data):
        raise ValueError("the response is cut")
    tag, length, start = data[at], data[at + 1], at + 2
    if length >= 0x80:
        count = length & 0x7F
        if not 0 < count <= 4:
            raise ValueError("a length that is not DER")
        length, start = int.from_bytes(data[start : start + count], "big"), start + count
    if start + length > len(data):
        raise ValueError("the response is cut")
    return tag, start, start + length


def _encoded(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content
