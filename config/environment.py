"""The environment as settings take it: which variable fills which field, and what becomes of Ollama's own.

Values are trimmed of blanks and quotes, and an empty one counts as not set, as Ollama does it.
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
    """Marks a field with the variables that fill it, the strongest first.

    `file`: VARIABLE_FILE names a file that holds the value, as containers and systemd hand out secrets.
    `every`: the field takes a list of all that are set, not the strongest alone.
    """

    def __init__(self, *names: str, file: bool = False, every: bool = False) -> None:
        self.names = names
        self.file = file
        self.every = every


@dataclass(frozen=True, slots=True)
class FromFile:
    """A value that is in a file. Read when the settings are checked, so that a failure is theirs to explain."""

    path: Path

    def read(self) -> str:
        """The file's text, trimmed. Raises ValueError."""
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
    """The value of a variable that says host and port at once."""

    __slots__ = ()


def trimmed(value: str) -> str:
    return value.strip().strip("\"'").strip()


def values_for(model: type[BaseModel], environ: Mapping[str, str]) -> dict[str, Any]:
    """What the environment says of a settings class, nested as its fields are; silent fields are left out."""
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
    """A field's mark; one without variables where it has none."""
    return next((item for item in field.metadata if isinstance(item, Env)), Env())


def variable(env: Env, environ: Mapping[str, str]) -> str:
    """The variable that a field's value came from, or would come from."""
    return next((name for name in _candidates(env) if trimmed(environ.get(name, ""))), "".join(env.names[:1]))


def _candidates(env: Env) -> Iterator[str]:
    for name in env.names:
        yield name
        if env.file:
            yield f"{name}_FILE"


def _value(env: Env, environ: Mapping[str, str]) -> Any:
    found = _found(env, environ)
    return (list(found) or None) if env.every else next(found, None)


def _found(env: Env, environ: Mapping[str, str]) -> Iterator[str | FromFile]:
    for name in _candidates(env):
        value = trimmed(environ.get(name, ""))
        if not value or of_kubernetes(name, value):
            continue
        if env.file and name.endswith("_FILE"):
            yield FromFile(Path(value))
        elif name.endswith("_HOST"):
            yield HostPort(value)
        elif (read := as_ollama(name, value)) is not None:
            yield read


def of_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes has set this for a service whose name begins with vllama: VLLAMA_PORT is then a URL."""
    return bool(_SERVICE.search(name)) or (name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://")))


def as_ollama(name: str, value: str) -> str | None:
    """A value in our words. None where Ollama itself cannot read it and takes its default."""
    if name in ("OLLAMA_KEEP_ALIVE", "OLLAMA_LOAD_TIMEOUT"):
        return value if _duration(value) else None
    if name == "OLLAMA_MAX_QUEUE":
        return value if re.fullmatch(r"[0-9]{1,9}", value) else None
    if name == "OLLAMA_DEBUG":
        on = value in ("1", "t", "T", "true", "TRUE", "True") or re.fullmatch(r"[+-]?0*[1-9][0-9]*", value)
        return "debug" if on else "info"
    return value


def _duration(text: str) -> bool:
    """Go's durations and whole seconds (R187); fractions of seconds need a unit there."""
    try:
        seconds(text)
    except ValueError:
        return False
    return not re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+)", text)


def unknown(environ: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """A line for each of our variables that is set and is none of the `known`: a slip of the pen, most likely."""
    names = {name.removeprefix(OURS): name for name in sorted(known)}  # VLLAMA_REDIS_URL hides REDIS_URL
    lines = []
    for name in sorted(environ):
        if name.startswith(OURS) and name not in names.values() and not of_kubernetes(name, environ[name]):
            near = difflib.get_close_matches(name.removeprefix(OURS), names, 1)
            lines.append(f"{name}: there is no such setting" + (f"; did you mean {names[near[0]]}?" if near else ""))
    return lines


def variables_of(model: type[BaseModel]) -> Iterator[str]:
    """Every variable that fills a settings class."""
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from variables_of(field.annotation)
        yield from _candidates(env_of(field))
