"""Virtual models: a served model under another name, with its own system prompt, parameters and messages.

A deleted model leaves a tombstone, so that a router that missed the deletion cannot restore it.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec

from vllama_pool.config.names import InvalidName, parse
from vllama_pool.workers.registry.record import YEAR_10000
from vllama_pool.workers.registry.signature import RecordRefused, decode, sign, verify


class VirtualModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One revision of a virtual model, or its tombstone."""

    name: str
    """Ollama's short form with its tag, in the spelling of the create request."""
    revision: Annotated[int, msgspec.Meta(ge=1)]
    """The highest wins. Normally the Unix time in ms."""
    changed: Annotated[float, msgspec.Meta(ge=0, lt=YEAR_10000)] = 0.0
    """Unix seconds."""
    deleted: bool = False
    base: str = ""
    """Served or configured model in Ollama's short form. Never a virtual model, so that copies outlive their source."""
    system: str = ""
    options: dict[str, Any] = {}
    """By Ollama's names; validated."""
    messages: tuple[dict[str, Any], ...] = ()
    """As in /api/chat."""
    licenses: tuple[str, ...] = ()
    parts_digest: str = ""
    """Digest of `parts`; "" if unknown."""
    v: int = 1

    @property
    def parts(self) -> dict[str, Any]:
        """Additions to the base, by kind; {} for a plain alias."""
        every = {
            "system": self.system,
            "parameters": self.options,
            "messages": self.messages,
            "license": self.licenses,
        }
        return {kind: part for kind, part in every.items() if part}


def digest_of(part: Any) -> str:
    """64 hex digits."""
    return hashlib.sha256(msgspec.json.encode(part, order="deterministic")).hexdigest()


def made_digest(model: VirtualModel, base_digest: str) -> str:
    """64 hex digits over the base and the parts; "" for an alias, which has its base's digest."""
    return digest_of([base_digest, model.parts_digest or digest_of(model.parts)]) if model.parts else ""


def sign_model(model: VirtualModel, key: str, *, fleet: str, secret: bytes | None) -> bytes:
    """Return the envelope for the entry of `key`."""
    return sign(msgspec.json.encode(model), _bound(fleet, key), secret)


def verify_model(
    envelope: bytes, key: str, *, fleet: str, secret: bytes | None, allow_unsigned: bool = False
) -> VirtualModel:
    """Raises RecordRefused. `allow_unsigned` as in `signature.verify`."""
    model = decode(verify(envelope, _bound(fleet, key), secret, allow_unsigned=allow_unsigned), VirtualModel)
    if not model.deleted and not model.base:
        raise RecordRefused("its record names no base model")
    if key_of(model.name) != key:
        raise RecordRefused(f"its record is that of {model.name!r}")
    return model


def key_of(name: str) -> str:
    """Return "" for an invalid name."""
    try:
        return parse(name).key
    except InvalidName:
        return ""


def _bound(fleet: str, key: str) -> bytes:
    return f"vllama virtual model\n{fleet}\n{key}\n".encode()
