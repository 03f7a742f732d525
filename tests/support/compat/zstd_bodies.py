"""Decompression of bodies within Ollama's limits."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_BYTES = 20 << 20
WINDOW_LOG = 23


class InvalidBody(Exception):
    pass


def decompress(body: bytes) -> bytes:
    """Raises InvalidBody."""
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
    try:
        found = bytes(decompressor.decompress(body, max_length=MAX_BYTES + 1))
    except zstd.ZstdError as error:
        raise InvalidBody(str(error)) from None
    if len(found) > MAX_BYTES:
        raise InvalidBody("http: request body too large")
    if not decompressor.eof:
        raise InvalidBody("unexpected EOF")
    return found
