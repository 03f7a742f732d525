"""Bytes of a connection that are in the kernel: sent by the client and not read, or written and not acknowledged."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios


def descriptor(transport: asyncio.BaseTransport) -> int:
    """Return -1 for a closed socket."""
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())


def unread(transport: asyncio.BaseTransport) -> int:
    """Return the number of bytes that have arrived and were not read."""
    return _count(transport, termios.FIONREAD)


def unacknowledged(transport: asyncio.BaseTransport) -> int:
    """Return the number of bytes that the kernel keeps for the peer."""
    return _count(transport, termios.TIOCOUTQ)


def _count(transport: asyncio.BaseTransport, request: int) -> int:
    """Return 0 for a closed socket."""
    number = descriptor(transport)
    if number < 0:
        return 0
    try:
        return int(struct.unpack("i", fcntl.ioctl(number, request, struct.pack("i", 0)))[0])
    except OSError:
        return 0
