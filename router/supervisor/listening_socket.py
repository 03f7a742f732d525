"""The listening socket that all router processes share."""

from __future__ import annotations

import errno
import socket

from vllama_pool.router.supervisor.checks import CannotLaunch

BACKLOG = 2048
"""Maximum connections waiting to be accepted."""


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
