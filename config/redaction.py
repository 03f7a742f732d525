"""Removes passwords from text for output: messages about addresses that could not be parsed. Pure.

A parsed address has an output form of its own. Here it is unknown where an address ends, so too much may be removed,
never too little.
"""

from __future__ import annotations

import re

HIDDEN = "…"
_USER_INFO = re.compile(r"(\w[\w+.-]*:/+|//).*@")
_BARE_USER_INFO = re.compile(r"[^\s'\"(]*:\S*@")
_SECRET_QUERY = re.compile(r"((?:\w:/|//)[^\s?#]*)[?#].*(pass|pwd|user|key|token|secret|auth)\w*=.*", re.IGNORECASE)
_QUERY = re.compile(r"((?:\w:/|//)[^\s?#]*)[?#][^\s'\"]*")


def redacted(text: str) -> str:
    """Return the text without the user info and the query of the addresses in it."""
    return "\n".join(_redacted(line) for line in text.split("\n")) if "@" in text or "/" in text else text


def _redacted(line: str) -> str:
    line = _USER_INFO.sub(lambda found: f"{found[1]}{HIDDEN}@", line)
    line = _BARE_USER_INFO.sub(lambda found: found[0] if HIDDEN in found[0] else f"{HIDDEN}@", line)
    line = _SECRET_QUERY.sub(lambda found: f"{found[1]}?{HIDDEN}", line)
    return _QUERY.sub(lambda found: f"{found[1]}?{HIDDEN}", line)
