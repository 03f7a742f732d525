"""The core schema of YAML 1.2: the values of plain scalars. Pure.

YAML 1.1, which PyYAML implements, reads `0123` as 83, `5e-2` as text and `no` as false.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Scalar = None | bool | int | float | str

_NULL = re.compile(r"(?:null|Null|NULL|~|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_FLOAT = re.compile(rf"(?:{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")

_FIRST = frozenset("+-.0123456789nN~tTfF") | {""}
"""First characters of scalars that may be something else than text."""

FORMS = {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT}
"""Kind -> form, in the order in which they are tried. What has none of these forms is text."""


def read(kind: str, text: str) -> Scalar:
    """Return the value of a scalar of a kind in FORMS. Raises ValueError if it has another form or is too long."""
    if not FORMS[kind].match(text):
        raise ValueError(f"not of the kind {kind}")
    return _READERS[kind](text)


def resolve(text: str) -> Scalar:
    """Return the value of a plain scalar. Raises ValueError for a number of too many digits."""
    if text[:1] not in _FIRST:
        return text
    for kind, form in FORMS.items():
        if form.match(text):
            return _READERS[kind](text)
    return text


def is_number(text: str) -> bool:
    return bool(_FLOAT.match(text) or _INT.match(text))


def _int(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(text: str) -> float:
    return float(text.replace(".", "", 1) if text[-1] in "fFnN" else text)


_READERS: dict[str, Callable[[str], Scalar]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _int,
    "float": _float,
}
