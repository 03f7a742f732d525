"""Base64 validation and media types of images and audio (R059, R154)."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable

from vllama_pool.router.errors import BadRequest

_ILLEGAL = re.compile(r"[^A-Za-z0-9+/=\r\n]")


def check_base64(text: str) -> None:
    """Raises BadRequest with Go's text and byte offset. Line breaks are legal."""
    data = text.replace("\n", "").replace("\r", "")
    if len(data) % 4 == 0 and not data.endswith("==="):  # some Python releases accept more padding than Go
        try:
            binascii.a2b_base64(data, strict_mode=True)
        except ValueError:
            pass
        else:
            return
    illegal = _ILLEGAL.search(text)
    position = illegal.start() if illegal else len(text) // 4 * 4
    raise BadRequest(f"illegal base64 data at input byte {position}")


def sniff(text: str) -> str:
    start = "".join(text[:4096].split())[:32]
    head = binascii.a2b_base64(start[: len(start) // 4 * 4])
    if head.startswith(b"\x89PNG"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"GIF8"):
        return "image/gif"
    if head.startswith(b"RIFF"):
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(head[8:12], "application/octet-stream")
    if head.startswith(b"ID3") or (head[:1] == b"\xff" and head[1:2] in (b"\xfb", b"\xf3", b"\xf2")):
        return "audio/mp3"
    return "application/octet-stream"


def required_capabilities(media: Iterable[str]) -> list[str]:
    kinds = {"audio" if sniff(item).startswith("audio/") else "vision" for item in media}
    return sorted(kinds, reverse=True)
