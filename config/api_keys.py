"""API keys: named, and known by their SHA-256 only."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

LONGEST_SECRET = 512
"""Longer ones are nobody's; they are not even hashed."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}\Z")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who holds the secret with this SHA-256. The name goes into logs."""

    name: str
    digest: bytes


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def identify(secret: str, keys: Iterable[ApiKey]) -> str | None:
    """The name of the key that this secret is. Takes as long for a wrong secret as for any right one."""
    if not secret or len(secret) > LONGEST_SECRET:
        return None
    given, found = digest(secret), None
    for key in keys:
        if hmac.compare_digest(given, key.digest):
            found = key.name
    return found


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Read `NAME:SHA256HEX` items, separated by commas or lines; `#` begins a comment.

    Raises ValueError that names the item by its number and never repeats it: it could be a secret.
    """
    lines = (line.partition("#")[0] for line in text.splitlines())
    items = [item.strip() for line in lines for item in line.split(",") if item.strip()]
    return checked([_key(number, item) for number, item in enumerate(items, 1)])


def checked(keys: Iterable[ApiKey]) -> tuple[ApiKey, ...]:
    """The keys, if names and secrets are unique. Raises ValueError."""
    kept: list[ApiKey] = []
    for key in keys:
        if any(key.name == other.name for other in kept):
            raise ValueError(f"two keys are named '{key.name}'; rename one")
        twin = next((other for other in kept if other.digest == key.digest), None)
        if twin is not None:
            raise ValueError(f"'{twin.name}' and '{key.name}' are the same key; give each its own")
        kept.append(key)
    return tuple(kept)


def _key(number: int, item: str) -> ApiKey:
    name, colon, value = item.partition(":")
    if not colon or not _NAME.match(name):
        raise ValueError(f"key {number} is not NAME:SHA256; a name has letters, digits, '.', '_' and '-'")
    if not _DIGEST.match(value):
        raise ValueError(f"key {number} has no SHA-256 of 64 hex digits; make one with: printf %s KEY | sha256sum")
    return ApiKey(name, bytes.fromhex(value))
