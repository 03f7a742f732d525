"""Virtual models: a model that others serve, under another name, with a system text, parameters and messages.

The registry has one entry for each name, under a revision that grows with its changes. What was deleted stays as a
tombstone, so that a router which has slept through it cannot bring it back.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec

from vllama_pool.config.names import InvalidName, parse
from vllama_pool.workers.registry.record import YEAR_10000
from vllama_pool.workers.registry.signature import RecordRefused, decode, unwrap, wrap


class VirtualModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One revision of a virtual model, or its tombstone."""

    name: str
    """In Ollama's short form, with its tag, as it was spelled when it was made."""
    revision: Annotated[int, msgspec.Meta(ge=1)]
    """Grows with every change of the name, and is mostly the Unix time of it in ms. The highest wins wherever two are
    known."""
    changed: Annotated[float, msgspec.Meta(ge=0, lt=YEAR_10000)] = 0.0
    """Unix seconds, for display and to forget the oldest tombstones first."""
    deleted: bool = False
    base: str = ""
    """A served model's name or one of the routing file, in Ollama's short form. Never a virtual one's: what is made
    from a virtual model is made from that one's base, and outlives it."""
    system: str = ""
    options: dict[str, Any] = {}
    """Under Ollama's names, checked for type."""
    messages: tuple[dict[str, Any], ...] = ()
    """In the form of /api/chat."""
    licenses: tuple[str, ...] = ()
    """Texts, for display."""
    parts_digest: str = ""
    """That of `parts`, so that lists need not work it out anew; "" where whoever made it did not say."""
    v: int = 1

    @property
    def parts(self) -> dict[str, Any]:
        """What it adds to its base, by kind; empty for a plain second name."""
        every = {
            "system": self.system,
            "parameters": self.options,
            "messages": self.messages,
            "license": self.licenses,
        }
        return {kind: part for kind, part in every.items() if part}


def digest_of(part: Any) -> str:
    """64 hex digits over a part of a model: the same for equal content, whoever computes it."""
    return hashlib.sha256(msgspec.json.encode(part, order="deterministic")).hexdigest()


def made_digest(model: VirtualModel, base_digest: str) -> str:
    """64 hex digits over the base's digest and what the model adds to it; "" for one that adds nothing, which is its
    base and so has that digest."""
    return digest_of([base_digest, model.parts_digest or digest_of(model.parts)]) if model.parts else ""


def seal_model(model: VirtualModel, key: str, *, fleet: str, secret: bytes | None) -> bytes:
    """The envelope that goes into the registry under `key`."""
    return wrap(msgspec.json.encode(model), _bound(fleet, key), secret)


def unseal_model(
    envelope: bytes, key: str, *, fleet: str, secret: bytes | None, unsigned: bool = False
) -> VirtualModel:
    """Check an envelope that was found under `key`. Raises RecordRefused. `unsigned` as in `signature.unwrap`."""
    model = decode(unwrap(envelope, _bound(fleet, key), secret, unsigned=unsigned), VirtualModel)
    if not model.deleted and not model.base:
        raise RecordRefused("its record does not say what it was made from")
    if key_of(model.name) != key:
        raise RecordRefused(f"its record is that of {model.name!r}")
    return model


def key_of(name: str) -> str:
    """The key of a name; "" for what is no name."""
    try:
        return parse(name).key
    except InvalidName:
        return ""


def _bound(fleet: str, key: str) -> bytes:
    return f"vllama virtual model\n{fleet}\n{key}\n".encode()
