"""Reads settings from our and Ollama's environment variables.

As in Ollama, values are stripped of blanks and quotes, and an empty value counts as unset.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vllama_pool.config.durations import seconds

OURS = "VLLAMA_"
_SECRET_BYTES = 1 << 16
_SERVICE = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)")


class Env:
    """Annotates a field with its variables, in order of precedence.

    `file`: VARIABLE_FILE may name a file that holds the value.
    `collect`: the field gets a list of all values.
    """

    def __init__(self, *names: str, file: bool = False, collect: bool = False) -> None:
        self.names = names
        self.file = file
        self.collect = collect


@dataclass(frozen=True, slots=True)
class FromFile:
    """A value in a file. Validation reads it, so that a failure is an error of its setting."""

    path: Path

    def read(self) -> str:
        """Return the stripped text. Raises ValueError."""
        try:
            with self.path.open("rb") as file:
                data = file.read(_SECRET_BYTES + 1)
            text = data.decode()
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror or error}; name a readable file") from None
        except UnicodeDecodeError:
            raise ValueError(f"{self.path}: not UTF-8 text; name another file") from None
        if len(data) > _SECRET_BYTES:
            raise ValueError(f"{self.path}: larger than {_SECRET_BYTES >> 10} KiB; name another file")
        return text.strip()


class HostPort(str):
    """The value of a variable that holds host and port."""

    __slots__ = ()


def trimmed(value: str) -> str:
    return value.strip().strip("\"'").strip()


def values_for(model: type[BaseModel], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a settings class, nested like its fields, without unset ones."""
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if inner := values_for(kind, environ):
                values[name] = inner
        elif (value := _value(env_of(field), environ)) is not None:
            values[name] = value
    return values


def env_of(field: FieldInfo) -> Env:
    return next((item for item in field.metadata if isinstance(item, Env)), Env())


def source_variable(env: Env, environ: Mapping[str, str]) -> str:
    """Return the variable that sets a field, else the field's first."""
    return next((name for name in _candidates(env) if trimmed(environ.get(name, ""))), "".join(env.names[:1]))


def _candidates(env: Env) -> Iterator[str]:
    for name in env.names:
        yield name
        if env.file:
            yield f"{name}_FILE"


def _value(env: Env, environ: Mapping[str, str]) -> Any:
    values = _set_values(env, environ)
    return (list(values) or None) if env.collect else next(values, None)


def _set_values(env: Env, environ: Mapping[str, str]) -> Iterator[str | FromFile]:
    for name in _candidates(env):
        value = trimmed(environ.get(name, ""))
        if not value or is_set_by_kubernetes(name, value):
            continue
        if env.file and name.endswith("_FILE"):
            yield FromFile(Path(value))
        elif name.endswith("_HOST"):
            yield HostPort(value)
        elif (translated := translate_ollama_value(name, value)) is not None:
            yield translated


def is_set_by_kubernetes(name: str, value: str) -> bool:
    """True if Kubernetes set the variable for a service named vllama: VLLAMA_PORT is a URL then."""
    return bool(_SERVICE.search(name)) or (name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://")))


def translate_ollama_value(name: str, value: str) -> str | None:
    """Translate a value of Ollama's variable into ours. None if Ollama would ignore it as invalid."""
    if name in ("OLLAMA_KEEP_ALIVE", "OLLAMA_LOAD_TIMEOUT"):
        return value if _duration(value) else None
    if name == "OLLAMA_MAX_QUEUE":
        return value if re.fullmatch(r"[0-9]{1,9}", value) else None
    if name == "OLLAMA_DEBUG":
        on = value in ("1", "t", "T", "true", "TRUE", "True") or re.fullmatch(r"[+-]?0*[1-9][0-9]*", value)
        return "debug" if on else "info"
    return value


def _duration(text: str) -> bool:
    """True for a Go duration or whole seconds (R187); Go requires a unit for fractions."""
    try:
        seconds(text)
    except ValueError:
        return False
    return not re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+)", text)


def unknown_variables(environ: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """Return a line for each VLLAMA_ variable that is not in `known`."""
    names = {name.removeprefix(OURS): name for name in sorted(known)}  # VLLAMA_REDIS_URL replaces REDIS_URL
    lines = []
    for name in sorted(environ):
        if name.startswith(OURS) and name not in names.values() and not is_set_by_kubernetes(name, environ[name]):
            near = difflib.get_close_matches(name.removeprefix(OURS), names, 1)
            lines.append(f"{name}: unknown setting" + (f"; did you mean {names[near[0]]}?" if near else ""))
    return lines


def variables_of(model: type[BaseModel]) -> Iterator[str]:
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from variables_of(field.annotation)
        yield from _candidates(env_of(field))
