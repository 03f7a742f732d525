"""Request ids, and the response headers that name them."""

from __future__ import annotations

import re
import secrets

from vllama_pool.router.protocol.error_bodies import anthropic_id, speaks_anthropic, speaks_openai

REQUEST_ID = b"x-request-id"
ANTHROPIC_REQUEST_ID = b"request-id"
_OF_BOTH = "/v1/models"
"""Paths of both APIs."""
_ID_BATCH = 256
_SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")


class RequestIds:
    """Random ids, 64 bits each. One system call makes many."""

    def __init__(self) -> None:
        self._unused: list[str] = []

    def choose(self, sent_id: bytes | None) -> str:
        """Return the client's X-Request-Id if it is safe in logs and headers, else a new id."""
        if sent_id and _SAFE_ID.match(sent_id):
            return sent_id.decode()
        if not self._unused:
            digits = secrets.token_hex(_ID_BATCH * 8)
            self._unused = [digits[start : start + 16] for start in range(0, len(digits), 16)]
        return self._unused.pop()


def id_headers(path: str, request_id: str, *, sent: bool) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that the clients of the path's API read. Ollama's have none (R180), unless they `sent` one."""
    if speaks_anthropic(path) or path.startswith(_OF_BOTH):
        return (REQUEST_ID, request_id.encode()), (ANTHROPIC_REQUEST_ID, anthropic_id(request_id).encode())
    if sent or speaks_openai(path):
        return ((REQUEST_ID, request_id.encode()),)
    return ()
