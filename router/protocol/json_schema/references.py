"""Resolution of `$ref` within a JSON schema."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from vllama_pool.router.protocol.json_schema.errors import invalid

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


class References:
    """Resolves pointers into the document, and gives each referenced schema a name of its own."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def resolve(self, ref: Any) -> Any:
        """Return the schema that a JSON pointer names. Raises BadRequest."""
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            raise invalid(f"Unsupported ref: {ref}")
        target = self._document
        for token in map(_unescaped, ref.split("/")[1:]):
            if isinstance(target, dict) and token in target:
                target = target[token]
            elif isinstance(target, list) and token.isdecimal() and len(token) < 9 and int(token) < len(target):
                target = target[int(token)]
            else:
                raise invalid(f"Error resolving ref {ref}: {token} not found")
        return target

    def known(self, ref: str) -> str | None:
        return self._names.get(ref)

    def name(self, ref: str) -> str:
        """Derive a unique name for `$defs` from the last part of the pointer."""
        base = _UNSAFE.sub("_", _unescaped(ref.rpartition("/")[2])) or "schema"
        name, count = base, 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        self._names[ref] = name
        return name


def _unescaped(token: str) -> str:
    return unquote(token).replace("~1", "/").replace("~0", "~")
