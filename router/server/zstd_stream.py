"""Decodes zstd piece by piece, in bounded memory. Pure."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from vllama_pool.router.errors import BadRequest

WINDOW_LOG = 23
"""Frames with a larger window than 8 MiB are refused, as by Ollama (R178)."""
MAX_FRAMES = 1024
"""A frame of 9 bytes costs as much time as 20 KiB of text."""
_SLICE = 64 * 1024
"""Bytes of input per call of the library, which copies what follows a frame."""

_INVALID = "the zstd body is invalid; send frames with windows of at most 8 MiB, or send it uncompressed"
_INCOMPLETE = "the zstd body is incomplete; send all of its last frame"
_TOO_MANY = f"the zstd body has more than {MAX_FRAMES} frames; send fewer"


class ZstdStream:
    """One or more frames, split anywhere. Raises BadRequest."""

    def __init__(self) -> None:
        self._input = memoryview(b"")
        self._position = 0
        """Of the input that is not yet passed to `_frame`."""
        self._frame: Any = None
        """Decodes the present frame; None between frames."""
        self._frames = 0

    def feed(self, data: bytes) -> None:
        """Add input. The earlier input must be used up."""
        self._input = memoryview(data)
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return up to `size` decoded bytes; b"" if the input is used up."""
        while True:
            data = self._input[:0]
            if self._frame is None or self._frame.needs_input:
                data = self._input[self._position : self._position + _SLICE]
                if not data:
                    return b""
                self._position += len(data)
            if piece := self._decode(data, size):
                return piece

    def end(self) -> None:
        """Check that the last frame is complete."""
        if self._frame is not None:
            raise BadRequest(_INCOMPLETE)

    def _decode(self, data: memoryview, size: int) -> bytes:
        frame = self._frame = self._frame or self._next_frame()
        try:
            piece: bytes = frame.decompress(data, max_length=size)
        except _zstd().ZstdError:
            raise BadRequest(_INVALID) from None
        if frame.eof:
            self._position -= len(frame.unused_data)
            self._frame = None
        return piece

    def _next_frame(self) -> Any:
        self._frames += 1
        if self._frames > MAX_FRAMES:
            raise BadRequest(_TOO_MANY)
        zstd = _zstd()
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})


@cache
def _zstd() -> Any:
    """Import zstd with the first body that needs it: few routers get one."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
