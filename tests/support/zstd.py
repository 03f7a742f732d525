"""Bodies in zstd."""

from __future__ import annotations

import struct
import sys
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_WINDOW_LOG: Any = zstd.CompressionParameter.window_log
_CHECKSUM: Any = zstd.CompressionParameter.checksum_flag


def frame(data: bytes, window_log: int | None = None) -> bytes:
    """Compress to one frame with a checksum. With `window_log`, its size is unknown, as in a stream."""
    if window_log is None:
        return bytes(zstd.compress(data, options={_CHECKSUM: 1}))
    compressor = zstd.ZstdCompressor(options={_WINDOW_LOG: window_log, _CHECKSUM: 1})
    return bytes(compressor.compress(data, mode=zstd.ZstdCompressor.FLUSH_BLOCK) + compressor.flush())


def skippable(data: bytes) -> bytes:
    """Return a frame that decoders skip."""
    return struct.pack("<II", 0x184D2A50, len(data)) + data
