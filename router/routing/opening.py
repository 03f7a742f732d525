"""The user that a decoded request names, and the opening of its conversation.

Requests of all protocols are read by the names of their fields, which the protocols share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import msgspec

MAX_TEXT = 16 * 1024
"""Characters of each text that the digest covers. The rest of a long document hardly tells conversations apart."""

SYSTEM_ROLES = frozenset({"system", "developer"})
VARYING = "x-anthropic-billing-header"
"""Begin of a system text that differs with each request of a conversation."""
_SESSION = "_session_"
"""Separates the user from the session in the `user_id` of some clients."""


class _Metadata(msgspec.Struct, frozen=True):
    user_id: Any = None


_decode_metadata = msgspec.json.Decoder(_Metadata).decode


def user_of(request: Any) -> str:
    """Return the user that the request's body names; "" for none."""
    fields = getattr(request, "fields", request)  # a call of /v1/responses
    user = getattr(fields, "user", None) or _user_id(getattr(fields, "metadata", None))
    return user.strip() if isinstance(user, str) else ""


def _user_id(metadata: Any) -> Any:
    if isinstance(metadata, dict):
        return metadata.get("user_id")
    if not isinstance(metadata, msgspec.Raw) or not bytes(metadata):
        return None
    try:
        user = _decode_metadata(metadata).user_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return user.partition(_SESSION)[0] if isinstance(user, str) else None


def opening_digest(request: Any) -> str:
    """Return a digest of the system text and of the first user message or prompt; "" without such texts."""
    system, first = _opening(request)
    if not system and not first:
        return ""
    digest = blake2b(digest_size=16)
    for text in (system, first):
        encoded = text[:MAX_TEXT].encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b" % (len(encoded), encoded))
    return digest.hexdigest()


def _opening(request: Any) -> tuple[str, str]:
    messages = getattr(request, "messages", None) or getattr(request, "conversation", None) or ()
    system = _text(getattr(request, "system", None))
    first = _text(getattr(request, "prompt", None))
    for message in messages:
        role = message.role.lower()
        if role == "user":
            first = _text(message.content)
            break
        if role in SYSTEM_ROLES and not system:
            system = _text(message.content)
    return system, first


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(_texts(content)) if isinstance(content, Iterable) else ""


def _texts(parts: Iterable[Any]) -> Iterator[str]:
    """Yield the texts of parts or blocks, and those of a list of prompts."""
    length = 0
    for part in parts:
        text = part if isinstance(part, str) else getattr(part, "text", None)
        if isinstance(text, str) and not text.startswith(VARYING):
            yield text
            length += len(text)
        if length > MAX_TEXT:
            return
