"""Headers of the client's response and of the request to a worker."""

from __future__ import annotations

from functools import lru_cache

from vllama_pool.router.protocol.json_lines import EVENTS

Headers = tuple[tuple[bytes, bytes], ...]
UpstreamHeaders = tuple[tuple[str, str], ...]

JSON = "application/json"


@lru_cache(16)
def response_headers(content_type: str) -> Headers:
    """Caches must not keep a stream of events (R180)."""
    headers = ((b"content-type", content_type.encode("latin-1")),)
    return (*headers, (b"cache-control", b"no-cache")) if content_type == EVENTS else headers


@lru_cache(64)
def upstream_headers(content_type: str) -> UpstreamHeaders:
    return (("content-type", content_type), ("accept", EVENTS))
