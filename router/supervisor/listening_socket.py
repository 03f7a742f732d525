"""The listening socket that all router processes share."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import socket
import struct
import sys

from vllama_pool.router.supervisor.checks import CannotLaunch

BACKLOG = 2048
"""Maximum connections waiting to be accepted."""
HANDSHAKE = 0.05
"""Seconds for connections whose first packet has arrived."""
CHECK_INTERVAL = 0.01
"""Seconds."""
MAX_CHECKS = 500
"""So the router processes have five seconds to accept what is queued: on a busy machine, they need more than one."""

_SO_ATTACH_FILTER = 26
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the TCP flags
    (0x45, 0, 1, 0x02),  # is SYN set?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
)
"""Classic BPF; the kernel passes the packet from its TCP header on."""


def listen(host: str, port: int) -> socket.socket:
    """Raises CannotLaunch, for example if the port is in use."""
    address = url(host, port).removeprefix("http://")
    try:
        family, kind, protocol, _, sockaddr = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotLaunch(f"cannot listen on {address}: {error.strerror or error}; choose another --host") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" serves IPv4 too
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotLaunch(_listen_error(error, address, port)) from error
    sock.setblocking(False)
    return sock


async def close_gently(sock: socket.socket) -> None:
    """Close the last descriptor of the listening socket when every connection in its queue has been accepted.

    The kernel would reset those that are left. New ones are kept out meanwhile: their first packets are dropped, so
    that their clients try again and are refused. Other processes must still accept. Idempotent.
    """
    if sock.fileno() == -1:
        return
    with contextlib.suppress(OSError):  # without it, only connections of the last moment are reset
        _drop_new_connections(sock)
        await asyncio.sleep(HANDSHAKE)
        for _ in range(MAX_CHECKS):
            if not _queued(sock):
                break
            await asyncio.sleep(CHECK_INTERVAL)
    sock.close()


def _drop_new_connections(sock: socket.socket) -> None:
    """Attach a packet filter that drops SYNs. Packets of connections that are being made or open pass."""
    if sys.platform != "linux":
        return
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HL", len(_DROP_SYN), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def _queued(sock: socket.socket) -> int:
    """Return the connections that wait to be accepted: of a listening socket, `tcpi_unacked` counts them."""
    length: int = struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0]
    return length


def url(host: str, port: int) -> str:
    """Return the URL at which clients on this machine reach a router that listens on `host` and `port`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
    name = reachable.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def _listen_error(error: OSError, address: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{address} is in use, perhaps by Ollama or another vllama; stop that one, "
                f"or choose another port: --port {port + 1}"
            )
        case errno.EACCES:
            return f"not allowed to listen on {address}; choose a port above 1023: --port 11434"
        case errno.EADDRNOTAVAIL:
            return f"{address} is not an address of this machine; choose another --host"
    return f"cannot listen on {address}: {error.strerror}; choose another --host or --port"
