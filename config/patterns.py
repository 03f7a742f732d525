"""Patterns of model names, such as `llama3*`: `*` stands for any characters, also none.

A pattern is compared with a name's key without the default parts, with and without the tag "latest", so that
`llama3*` matches "llama3" and `qwen3:*` matches "qwen3". Matching takes linear time: parts are searched from left to
right, and none is searched again.
"""

from __future__ import annotations

from typing import TypeAlias

from vllama_pool.config.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, MAX_CACHED_LENGTH

STAR = "*"

_HOST, _NAMESPACE, _LATEST = f"{DEFAULT_HOST}/", f"{DEFAULT_NAMESPACE}/", f":{DEFAULT_TAG}"

Captures: TypeAlias = tuple[str, ...]


def spellings(key: str) -> tuple[str, ...]:
    """Return the texts that patterns are compared with, by a name's `lookup_key`. None for a cloud name."""
    if len(key) > MAX_CACHED_LENGTH or key.endswith((":cloud", "-cloud")):
        return ()
    short = key.removeprefix(_HOST).removeprefix(_NAMESPACE) if key.startswith(_HOST) else key
    bare = short.removesuffix(_LATEST)
    return (short,) if bare == short else (bare, short)


class Pattern:
    __slots__ = ("first", "last", "middle", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        parts = text.strip().lower().split(STAR)
        parts[0] = parts[0].removeprefix(_HOST).removeprefix(_NAMESPACE)
        self.first, *middle, self.last = parts
        self.middle = tuple(middle)

    def __repr__(self) -> str:
        return f"<Pattern {self.text}>"

    @property
    def parts(self) -> tuple[str, ...]:
        """The texts between the stars."""
        return (self.first, *self.middle, self.last)

    @property
    def sees_tag(self) -> bool:
        """True if it may match a name with the tag "latest" and not without it."""
        return bool(self.last) or ":" in self.text or any(part in DEFAULT_TAG for part in self.middle)

    def matches(self, name: str) -> bool:
        return self.match(name) is not None

    def match(self, name: str) -> Captures | None:
        """Return the texts of the stars; the earlier ones are as short as possible. `name`: one of `spellings`."""
        text = name.lower() if name.isascii() else name
        first, last = self.first, self.last
        position, end = len(first), len(text) - len(last)
        if position > end or not (text.startswith(first) and text.endswith(last)):
            return None
        captures = []
        for part in self.middle:
            found = text.find(part, position, end)
            if found < 0:
                return None
            captures.append(name[position:found])
            position = found + len(part)
        return (*captures, name[position:end])


def is_pattern(name: str) -> bool:
    return STAR in name
