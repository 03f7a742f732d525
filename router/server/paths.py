"""The server's paths and methods, and Ollama's responses to all others (R036). Pure.

Litestar would also serve "/api/tags/" and "//api/tags".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

_ORDER = ("HEAD", "GET", "POST", "PUT", "PATCH", "DELETE")
_PARAMETER = re.compile(r"\{[a-z_]+:(str|path)\}")
_PART = {"str": "[^/]+", "path": "[^/](?:.*[^/])?"}


@dataclass(frozen=True, slots=True)
class Redirect:
    """The path is known without its trailing slash."""

    status: int
    location: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """The path is unknown."""


@dataclass(frozen=True, slots=True)
class NotAllowed:
    """The path is known for other methods only."""

    allow: str


Rejection = Redirect | NotFound | NotAllowed


class Paths:
    """Matches "{name:str}" to one segment, "{name:path}" to any number."""

    def __init__(self, routes: Iterable[tuple[str, Iterable[str]]]) -> None:
        """`routes`: paths with their methods; methods of a repeated path are merged."""
        methods: dict[str, set[str]] = {}
        for path, these in routes:
            methods.setdefault(path, set()).update(these)
        self._methods: Mapping[str, frozenset[str]] = {path: frozenset(merged) for path, merged in methods.items()}
        self._patterns = [(_pattern(path), self._methods[path]) for path in methods if "{" in path]

    def check(self, method: str, path: str, query: str = "") -> Rejection | None:
        """Return None if the request is served. `path` is percent-decoded, `query` is not."""
        methods = self.methods(path)
        if method in methods:
            return None
        if len(path) > 1 and path.endswith("/") and method in self.methods(path[:-1]):
            location = quote(path[:-1], safe="/:@!$&'()*+,;=~-._") + (f"?{query}" if query else "")
            return Redirect(301 if method == "GET" else 307, location)
        if methods:
            return NotAllowed(", ".join(sorted(methods, key=_rank)))
        return NotFound()

    def methods(self, path: str) -> frozenset[str]:
        if (methods := self._methods.get(path)) is not None and "{" not in path:
            return methods
        return next((methods for pattern, methods in self._patterns if pattern.match(path)), frozenset())

    def __iter__(self) -> Iterable[tuple[str, frozenset[str]]]:
        return iter(self._methods.items())


def clean_path(path: str) -> str:
    """Resolve "//", "/./" and "/../", and keep a trailing slash, as the path cleaning of Go's mux does."""
    if ("//" not in path and "/." not in path) or not path.startswith("/"):
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts) + ("/" if parts and path.endswith("/") else "")


def _rank(method: str) -> int:
    return _ORDER.index(method) if method in _ORDER else len(_ORDER)


def _pattern(path: str) -> re.Pattern[str]:
    parts: list[str] = []
    end = 0
    for parameter in _PARAMETER.finditer(path):
        parts += [re.escape(path[end : parameter.start()]), _PART[parameter[1]]]
        end = parameter.end()
    return re.compile("".join([*parts, re.escape(path[end:])]) + r"\Z", re.DOTALL)
