"""Images (and audio) of a request: base64 as Go checks it, and what kind of data it is (R059, R154)."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable

from vllama_pool.router.errors import BadRequest

_ILLEGAL = re.compile(r"[^A-Za-z0-9+/\r\n]")
_NEWLINES = re.compile(r"[\r\n]*")


def check_base64(text: str) -> None:
    """Raises BadRequest with Go's text and byte position."""
    try:
        binascii.a2b_base64(text, strict_mode=True)
        if len(text) % 4 == 0 and not text.endswith("==="):  # some Python releases let padding pass here
            return
    except ValueError:
        pass
    position = illegal_at(text)
    if position is not None:
        raise BadRequest(f"illegal base64 data at input byte {position}")


def illegal_at(text: str) -> int | None:
    """Where Go's base64.StdEncoding stops: the offset of the illegal byte. None if it takes the text.

    Go skips line breaks, wants padding, and reports a missing one at the start of the last group.
    """
    found = _ILLEGAL.search(text)
    end = found.start() if found else len(text)
    breaks = text.count("\n", 0, end) + text.count("\r", 0, end)
    in_group = (end - breaks) % 4
    if found is None:
        return None if in_group == 0 else len(text) - in_group
    if found.group() != "=" or in_group < 2:
        return end
    at = end + 1
    if in_group == 2:
        at = _past_newlines(text, at)
        if at == len(text):
            return at
        if text[at] != "=":
            return at - 1
        at += 1
    at = _past_newlines(text, at)
    return at if at < len(text) else None


def _past_newlines(text: str, at: int) -> int:
    match = _NEWLINES.match(text, at)
    return match.end() if match else at


def sniff(text: str) -> str:
    """The media type by the first bytes; the text is valid base64."""
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


def wanted(media: Iterable[str]) -> list[str]:
    """The capabilities that a model needs for these: vision, audio."""
    kinds = {"audio" if sniff(item).startswith("audio/") else "vision" for item in media}
    return sorted(kinds, reverse=True)
