"""Values from the environment in a routing file: `${NAME}` and `${NAME:-default}`; `$${` stands for `${`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

_FORM = re.compile(r"\$\$\{|\$\{(?P<inside>[^}]*)(?P<end>\}?)")
_INSIDE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?\Z", re.DOTALL)


class InvalidVariable(ValueError):
    """`str()` reads "what is wrong; what to do", and never repeats a value."""


def has_variables(text: str) -> bool:
    """Return True also if they are escaped."""
    return "${" in text


def is_variable(text: str) -> bool:
    """Return True for a text that is one variable and nothing else."""
    found = _FORM.fullmatch(text)
    return found is not None and found["inside"] is not None


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Raises InvalidVariable."""
    return _FORM.sub(lambda found: _value(found, environment), text)


def _value(found: re.Match[str], environment: Mapping[str, str]) -> str:
    if found["inside"] is None:
        return "${"
    if not found["end"]:
        raise InvalidVariable("a '${' is not closed; add '}', or write '$${' for the text itself")
    parts = _INSIDE.match(found["inside"])
    if not parts:
        raise InvalidVariable(
            f"{_shown(found[0])} is not a variable; "
            "write ${NAME} or ${NAME:-default}, or '$${' for the text itself"
        )
    if "${" in (parts["default"] or ""):
        raise InvalidVariable(f"the default of ${{{parts['name']}}} has a variable itself; write its value")
    return _lookup(parts["name"], parts["default"], environment)


def _lookup(name: str, default: str | None, environment: Mapping[str, str]) -> str:
    value = environment.get(name)
    if default is not None and not value:
        return default
    if value is None:
        raise InvalidVariable(f"the variable {name} is not set; set it, or write ${{{name}:-default}}")
    if not _is_text(value):
        raise InvalidVariable(f"the variable {name} is not UTF-8 text; correct its value")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(text: str) -> str:
    return f"'{text if len(text) <= 40 else text[:37] + '...'}'"
