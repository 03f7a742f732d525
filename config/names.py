"""Ollama's model names: `[[host/]namespace/]model[:tag]` (R169-R173).

Names are compared without case, and never used as file paths.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

MAX_CACHED_LENGTH = 1024
"""Characters; more than any valid name has."""

_MAX_LENGTH = {"host": 350, "namespace": 80, "model": 80, "tag": 80}
_ALLOWED = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*\Z"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*\Z"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z"),
}
_CHARACTERS = {
    "host": "letters, digits, '_', '-', '.' and ':'",
    "namespace": "letters, digits, '_' and '-'",
    "model": "letters, digits, '_', '-' and '.'",
    "tag": "letters, digits, '_', '-' and '.'",
}
_PLAIN = re.compile(
    r"(?:([A-Za-z0-9_][A-Za-z0-9_-]{0,79})/)?([A-Za-z0-9_][A-Za-z0-9_.-]{0,79})"
    r"(?::([A-Za-z0-9_][A-Za-z0-9_.-]{0,79}))?\Z"
)
"""Most names: a namespace, a model and a tag, whose parts need no further checks."""
_SOURCES = ("local", "cloud")
"""Ends of the names that may have a suffix for the source."""
_LIBRARY = f"{DEFAULT_HOST}/{DEFAULT_NAMESPACE}/"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class InvalidName(ValueError):
    """Not a model name. `str()` gives the reason."""

    text = "invalid model name"
    """Ollama's error text, with status 400 (R147)."""

    def __init__(self, given: str, why: str) -> None:
        super().__init__(why)
        self.given = given


class ConflictingSource(InvalidName):
    """The name has both suffixes, `:local` and `:cloud` (R149)."""

    def __init__(self, given: str) -> None:
        self.text = f"use either :local or :cloud, not both: {json.dumps(given, ensure_ascii=False)}"
        super().__init__(given, "':local' and ':cloud' cannot be used together")


@dataclass(frozen=True, slots=True)
class Name:
    """A valid name with defaults filled in, in its given spelling."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def full(self) -> str:
        """Such as "registry.ollama.ai/library/llama3.2:latest"."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """The full name in lower case, equal for all spellings of a name (R171)."""
        return self.full.lower()

    @property
    def short(self) -> str:
        """The name as Ollama lists it: without default host and namespace, with the tag (R173)."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"


def parse(text: str) -> Name:
    """Parse a name and fill in defaults. Raises InvalidName, or its subclass ConflictingSource.

    `x:local` is `x`. A cloud name keeps its suffix, so that it never means the local model.
    """
    plain = _PLAIN.match(text)
    if plain and not text.lower().endswith(_SOURCES):
        return Name(DEFAULT_HOST, plain[1] or DEFAULT_NAMESPACE, plain[2], plain[3] or DEFAULT_TAG)
    base, source = _split_source(text)
    name = _parse_parts(base, given=text)
    if source != "cloud":
        return name
    tagged = base.rfind(":") > base.rfind("/")
    return Name(name.host, name.namespace, name.model, f"{name.tag}-cloud" if tagged else "cloud")


def is_cloud(text: str) -> bool:
    """True for a model of ollama.com: tag `cloud`, or a tag that ends in `-cloud` (R038)."""
    return _source_suffix(text.strip())[1] == "cloud"


def lookup_key(text: str) -> str:
    """Return the key of a model's name. Cached, except for very long names, because clients choose them.

    A name of vLLM's outside Ollama's grammar, such as a path, is its own key.
    """
    return _cached_key(text) if len(text) <= MAX_CACHED_LENGTH else _key(text)


def _key(text: str) -> str:
    plain, lower = _PLAIN.match(text), text.lower()
    if plain and not lower.endswith(_SOURCES):
        full = f"{DEFAULT_HOST}/{lower}" if plain[1] else f"{_LIBRARY}{lower}"
        return full if plain[3] else f"{full}:{DEFAULT_TAG}"
    try:
        return parse(text).key
    except InvalidName:
        return text


_cached_key = lru_cache(maxsize=4096)(_key)


def _split_source(text: str) -> tuple[str, str]:
    text = text.strip()
    base, source = _source_suffix(text)
    if source and _source_suffix(base)[1]:
        raise ConflictingSource(text)
    return base, source


def _source_suffix(text: str) -> tuple[str, str]:
    """Split off a final `:local`, `:cloud` or `-cloud`: return the rest, and "local", "cloud" or ""."""
    before, colon, last = text.rpartition(":")
    if not colon:
        return text, ""
    last = last.strip()
    if last.lower() in ("local", "cloud"):
        return before, last.lower()
    if last.lower().endswith("-cloud") and "/" not in last:
        return f"{before}:{last[: -len('-cloud')]}", "cloud"
    return text, ""


def _parse_parts(text: str, *, given: str) -> Name:
    if not text:
        raise InvalidName(given, "the name is empty")
    path, tag = text, DEFAULT_TAG
    if text.rfind(":") > text.rfind("/"):
        path, _, tag = text.rpartition(":")
    rest, slash, model = path.rpartition("/")
    host, namespace = DEFAULT_HOST, DEFAULT_NAMESPACE
    if slash:
        host_part, slash, namespace = rest.rpartition("/")
        if slash:
            host = _SCHEME.sub("", host_part, count=1) if _SCHEME.match(host_part) else host_part
    name = Name(host, namespace, model, tag)
    for part in ("host", "namespace", "model", "tag"):
        _check(part, getattr(name, part), given)
    return name


def _check(part: str, value: str, given: str) -> None:
    if not value:
        raise InvalidName(given, f"the {part} is empty")
    if len(value) > _MAX_LENGTH[part]:
        raise InvalidName(given, f"the {part} is longer than {_MAX_LENGTH[part]} characters")
    if not _ALLOWED[part].match(value):
        raise InvalidName(
            given, f"the {part} may have {_CHARACTERS[part]} only, and begins with a letter, digit or '_'"
        )
