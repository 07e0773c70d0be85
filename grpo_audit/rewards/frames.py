"""Messages between the trainer and a reward process: eight bytes of length, little-endian, then that many bytes.

Imported by the reward process, so it imports next to nothing.
"""

from __future__ import annotations

import socket
import time

_HEADER = 8
MAX_ANSWER = 64 << 20
"""Longest answer the trainer accepts, bytes: a million rewards are far below."""


class ConnectionLost(Exception):
    """The other side is gone."""


class FrameTooLong(Exception):
    """The other side announced more bytes than it may send."""


def send(connection: socket.socket, data: bytes, deadline: float | None = None) -> None:
    """Send one message. Raises TimeoutError at the deadline (``time.monotonic()``), ConnectionLost."""
    try:
        connection.settimeout(_left(deadline))
        connection.sendall(len(data).to_bytes(_HEADER, "little") + data)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ConnectionLost from error


def receive(connection: socket.socket, deadline: float | None = None, limit: int | None = None) -> bytes:
    """Receive one message. Raises TimeoutError at the deadline, ConnectionLost, FrameTooLong beyond ``limit`` bytes."""
    length = int.from_bytes(_exactly(connection, _HEADER, deadline), "little")
    if limit is not None and length > limit:
        raise FrameTooLong
    return _exactly(connection, length, deadline)


def _exactly(connection: socket.socket, length: int, deadline: float | None) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    done = 0
    while done < length:
        connection.settimeout(_left(deadline))
        try:
            read = connection.recv_into(view[done:])
        except ConnectionResetError as error:
            raise ConnectionLost from error
        if read == 0:
            raise ConnectionLost
        done += read
    return bytes(data)


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
