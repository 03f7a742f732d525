"""Decompression of zstd frames that hold raw and repeated blocks only."""

from __future__ import annotations

MAGIC = b"\x28\xb5\x2f\xfd"
MAX_BYTES = 20 << 20
MAX_WINDOW = 8 << 20
RAW, REPEATED = 0, 1


class InvalidFrame(Exception):
    pass


def decompress(frame: bytes) -> bytes:
    """Raises InvalidFrame, also for a frame above Ollama's limits."""
    if frame[:4] != MAGIC or len(frame) < 6:
        raise InvalidFrame("magic number mismatch")
    if 1 << (10 + (frame[5] >> 3)) > MAX_WINDOW:
        raise InvalidFrame("window size exceeded")
    found = bytearray()
    at, last = 6, False
    while not last:
        header = int.from_bytes(frame[at : at + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        at += 3
        taken = {RAW: size, REPEATED: 1}.get(kind)
        if taken is None or at + taken > len(frame):
            raise InvalidFrame("unexpected EOF")
        found += frame[at : at + size] if kind == RAW else frame[at : at + 1] * size
        at += taken
        if len(found) > MAX_BYTES:
            raise InvalidFrame("http: request body too large")
    return bytes(found)
