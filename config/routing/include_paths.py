"""Finds the files that an `include` names, within the folder of the first file.

A path stays in the folder as written, and after its symbolic links. Links within the folder are fine: Kubernetes mounts
each file as one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

MAX_MATCHES = 1000
_WILDCARDS = frozenset("*?[")


class InvalidInclude(ValueError):
    """`str()` reads "what is wrong; what to do"."""


@dataclass(slots=True)
class Matches:
    files: list[str] = field(default_factory=list)
    """Absolute paths, sorted if a pattern named them."""
    patterns: list[str] = field(default_factory=list)
    """The absolute pattern, if the name is one."""


class IncludeFolder:
    """The folder of the first file."""

    def __init__(self, first: str) -> None:
        self.path = os.path.dirname(os.path.abspath(first))
        self._allowed = {os.path.realpath(self.path), os.path.dirname(os.path.realpath(first))}

    def find(self, name: str, base: str) -> Matches:
        """Return the files that a name or pattern stands for in a file of the folder `base`. Raises InvalidInclude."""
        self._check(name)
        path = os.path.normpath(os.path.join(base, name))
        if not _is_within(path, self.path):
            raise InvalidInclude(f"'{name}' is outside of the folder {self.path}; move the file into it")
        parts = os.path.relpath(path, self.path).split(os.sep)
        if not any(_WILDCARDS & set(part) for part in parts) or os.path.lexists(path):
            return Matches([path])
        if "**" in name:
            raise InvalidInclude(f"'{name}' has '**'; write each folder with a '*' of its own")
        return self._matches(parts, name)

    def check_links(self, path: str) -> None:
        """Raise InvalidInclude for a path that leaves the folder by a symbolic link."""
        real = os.path.realpath(path)
        if not any(_is_within(real, folder) for folder in self._allowed):
            raise InvalidInclude(f"leads out of the folder {self.path} by a symbolic link; copy the file into it")

    def _check(self, name: str) -> None:
        if not name.strip() or not name.isprintable():
            raise InvalidInclude("is empty or has control characters; write the name of a file")
        if os.path.isabs(name) or name.startswith("~"):
            raise InvalidInclude(f"'{name}' is not relative; write it relative to this file")

    def _matches(self, parts: list[str], name: str) -> Matches:
        paths, is_in_folder = [self.path], False
        for part in parts:
            if _WILDCARDS & set(part):
                is_in_folder |= any(os.path.isdir(path) for path in paths)
                paths = [os.path.join(path, entry) for path in paths for entry in self._entries(path, part, name)]
            else:
                paths = [os.path.join(path, part) for path in paths]
            if len(paths) > MAX_MATCHES:
                raise InvalidInclude(f"'{name}' matches more than {MAX_MATCHES} files; write a narrower pattern")
        if not is_in_folder:
            raise InvalidInclude(f"no folder of the name in '{name}'; create it, or correct the name")
        return Matches([path for path in paths if os.path.lexists(path)], [os.path.join(self.path, *parts)])

    def _entries(self, folder: str, part: str, name: str) -> list[str]:
        if not os.path.isdir(folder):
            return []
        self.check_links(folder)
        try:
            entries = sorted(os.listdir(folder))
        except OSError as error:
            raise InvalidInclude(f"'{name}': {error.strerror or 'cannot be read'}; name a readable folder") from None
        return [entry for entry in entries if fnmatchcase(entry, part) and (part[0] == "." or entry[0] != ".")]


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))
