"""API keys: a name and the SHA-256 of a secret."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

LONGEST_SECRET = 512
"""Longer secrets are rejected without hashing."""

_Holder = TypeVar("_Holder")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}\Z")


@dataclass(frozen=True, slots=True)
class ApiKey:
    name: str
    """Shown in logs."""
    digest: bytes
    """SHA-256 of the secret."""


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def identify(secret: str, holders: Mapping[bytes, _Holder]) -> _Holder | None:
    """Return the holder of the key with this secret. `holders`: by SHA-256 digest.

    A lookup by digest takes the same time for any number of keys, and reveals nothing about a stored secret.
    """
    if not secret or len(secret) > LONGEST_SECRET:
        return None
    return holders.get(digest(secret))


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Parse `NAME:SHA256HEX` items, separated by commas or lines; `#` begins a comment.

    Raises ValueError, which names an item by its number: the item may be a secret.
    """
    lines = (line.partition("#")[0] for line in text.splitlines())
    items = [item.strip() for line in lines for item in line.split(",") if item.strip()]
    return require_unique([_key(number, item) for number, item in enumerate(items, 1)])


def require_unique(keys: Iterable[ApiKey]) -> tuple[ApiKey, ...]:
    """Return the keys. Raises ValueError if two share a name or a secret."""
    names: set[str] = set()
    owners: dict[bytes, str] = {}
    all_keys = tuple(keys)
    for key in all_keys:
        if key.name in names:
            raise ValueError(f"two keys are named '{key.name}'; rename one")
        names.add(key.name)
        owner = owners.setdefault(key.digest, key.name)
        if owner != key.name:
            raise ValueError(f"'{owner}' and '{key.name}' are the same key; give each its own")
    return all_keys


def _key(number: int, item: str) -> ApiKey:
    name, colon, value = item.partition(":")
    if not colon or not _NAME.match(name):
        raise ValueError(f"key {number} is not NAME:SHA256; a name has letters, digits, '.', '_' and '-'")
    if not _DIGEST.match(value):
        raise ValueError(f"key {number} has no SHA-256 of 64 hex digits; make one with: printf %s KEY | sha256sum")
    return ApiKey(name, bytes.fromhex(value))
