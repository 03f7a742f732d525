"""Ollama's model names: `[[host/]namespace/]model[:tag]`, and what they mean (R169-R173).

Names are compared without regard to case and are only ever used as keys and for display, never as paths.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

LONGEST_REMEMBERED = 1024
"""Characters; longer than any name that Ollama's grammar has."""

_LONGEST = {"host": 350, "namespace": 80, "model": 80, "tag": 80}
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
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class InvalidName(ValueError):
    """The text is no model name. `str()` says why, in words for the person who wrote it."""

    text = "invalid model name"
    """What Ollama answers, with status 400 (R147)."""

    def __init__(self, given: str, why: str) -> None:
        super().__init__(why)
        self.given = given
        """The name as it was given."""


class ConflictingSource(InvalidName):
    """Both of the suffixes `:local` and `:cloud` (R149): Ollama answers 400 with `text`."""

    def __init__(self, given: str) -> None:
        self.text = f"use either :local or :cloud, not both: {json.dumps(given, ensure_ascii=False)}"
        super().__init__(given, "':local' and ':cloud' cannot be used together")


@dataclass(frozen=True, slots=True)
class Name:
    """A valid name with every part filled in, spelled as it was given."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def full(self) -> str:
        """Every part, such as "registry.ollama.ai/library/llama3.2:latest"."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """What two spellings of one name have in common: the full name in lower case (R171)."""
        return self.full.lower()

    @property
    def short(self) -> str:
        """As Ollama lists it: host and namespace only where not the default, the tag always (R173)."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"


def parse(text: str) -> Name:
    """The name that `text` spells, defaults filled in.

    `x:local` is `x`. A cloud name keeps its mark, in the form `x:cloud` or `x:8b-cloud`, so that it never
    means the local model of the same name; ask `is_cloud` first where the difference matters.
    Raises InvalidName, and ConflictingSource out of it.
    """
    base, source = _split_source(text)
    name = _parse_parts(base, given=text)
    if source != "cloud":
        return name
    tagged = base.rfind(":") > base.rfind("/")
    return Name(name.host, name.namespace, name.model, f"{name.tag}-cloud" if tagged else "cloud")


def is_cloud(text: str) -> bool:
    """Whether the name asks for a model of ollama.com: tag `cloud`, or a tag that ends in `-cloud` (R038)."""
    return _source_suffix(text.strip())[1] == "cloud"


def lookup_key(text: str) -> str:
    """The key to find a model by; remembered, for it is asked for several times per request. Not so for endless names:
    clients invent them.

    vLLM serves any name, also such as Ollama's grammar does not have (a path, a dot in the namespace): these are
    known under their exact spelling only.
    """
    return _remembered_key(text) if len(text) <= LONGEST_REMEMBERED else _key(text)


def _key(text: str) -> str:
    try:
        return parse(text).key
    except InvalidName:
        return text


_remembered_key = lru_cache(maxsize=4096)(_key)


def _split_source(text: str) -> tuple[str, str]:
    text = text.strip()
    base, source = _source_suffix(text)
    if source and _source_suffix(base)[1]:
        raise ConflictingSource(text)
    return base, source


def _source_suffix(text: str) -> tuple[str, str]:
    """What comes before a `:local`, `:cloud` or `-cloud` at the end, and which it was ("" for none)."""
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
    if len(value) > _LONGEST[part]:
        raise InvalidName(given, f"the {part} is longer than {_LONGEST[part]} characters")
    if not _ALLOWED[part].match(value):
        raise InvalidName(
            given, f"the {part} may have {_CHARACTERS[part]} only, and begins with a letter, digit or '_'"
        )
