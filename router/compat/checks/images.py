"""Images in requests."""

from __future__ import annotations

import base64
import struct
import zlib

from vllama_pool.router.compat.checks.answers import whole
from vllama_pool.router.compat.checks.check import covers
from vllama_pool.router.compat.server import CheckedServer

SIDE = 64
"""Pixels. Some models refuse smaller images."""


def picture(side: int) -> bytes:
    """A red PNG."""
    row = b"\x00" + b"\xc0\x10\x10" * side
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * side)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


PICTURE = base64.b64encode(picture(SIDE)).decode()


@covers(59)
async def generate_accepts_images(server: CheckedServer) -> None:
    await whole(server, "generate", use="vision", prompt="Which colour is this?", images=[PICTURE])


@covers(75)
async def chat_accepts_images(server: CheckedServer) -> None:
    question = {"role": "user", "content": "Which colour is this?", "images": [PICTURE]}
    await whole(server, "chat", use="vision", messages=[question])
