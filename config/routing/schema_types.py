"""The values of a routing file: names, tags, numbers, durations."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from vllama_pool.config import durations, names, urls

MAX_STARS = 3
"""Wildcards of a pattern. A name is matched in one pass."""

_IDENTITY = r"^(user|key|client|conversation|header:[A-Za-z0-9_-]{1,64})$"
_SPLIT = _IDENTITY.replace("(", "(request|", 1)
_DURATION = r"^([0-9]+(\.[0-9]*)?|(([0-9]+(\.[0-9]*)?)(ns|us|µs|ms|s|m|h))+)$"
_SHA256 = r"^[0-9a-fA-F]{64}$"


class Section(BaseModel):
    """A mapping of the file: frozen, without conversions, without unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def is_pattern(name: str) -> bool:
    return "*" in name


def _model_name(text: str) -> str:
    if is_pattern(text):
        raise ValueError("has a '*', which only the key of an entry may have; write one name")
    return _checked_name(text, text)


def _name_or_pattern(text: str) -> str:
    stars = text.count("*")
    if "**" in text:
        raise ValueError("has two '*' side by side; one matches any number of characters")
    if stars > MAX_STARS:
        raise ValueError(f"has {stars} '*'; use at most {MAX_STARS}")
    return _checked_name(text, text.replace("*", "x"))


def _checked_name(text: str, example: str) -> str:
    if names.is_cloud(text):
        raise ValueError("names a model of ollama.com, which vLLama does not serve; remove the cloud suffix")
    try:
        names.parse(example)
    except names.InvalidName as error:
        raise ValueError(f"{error}; write [namespace/]model[:tag]") from None
    return text


def _served_name(text: str) -> str:
    if text != text.strip() or not text.isprintable():
        raise ValueError("has blanks around it or control characters; write the name as vLLM serves it")
    return text


def _worker_url(text: str) -> str:
    try:
        return urls.worker_url(text)
    except urls.InvalidUrl as error:
        raise ValueError(str(error)) from None


def whole(value: Any) -> Any:
    """JSON Schema counts 1e3 as an integer; YAML does not."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _seconds(value: Any) -> Any:
    """Read a duration. Numbers are seconds; other types are left to pydantic."""
    return durations.seconds(value) if isinstance(value, str) else value


def _identity(text: str) -> str:
    if not re.match(_IDENTITY, text):
        raise ValueError("is not an identity; write user, key, client, conversation or header:NAME")
    return text


def _split(text: str) -> str:
    if not re.match(_SPLIT, text):
        raise ValueError("is not an identity; write request, user, key, client, conversation or header:NAME")
    return text


def _sha256(text: str) -> str:
    if not re.match(_SHA256, text):
        raise ValueError("is not a SHA-256 of 64 hex digits; make one with: printf %s KEY | sha256sum")
    return text.lower()


def _message(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("is empty or has control characters; write one line")
    return text


ModelName = Annotated[str, StringConstraints(min_length=1, max_length=600), AfterValidator(_model_name)]
NameOrPattern = Annotated[str, StringConstraints(min_length=1, max_length=600), AfterValidator(_name_or_pattern)]
ServedName = Annotated[str, StringConstraints(min_length=1, max_length=600), AfterValidator(_served_name)]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}$")]
WorkerUrl = Annotated[str, AfterValidator(_worker_url)]
Message = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_message)]
Identity = Annotated[str, AfterValidator(_identity), WithJsonSchema({"type": "string", "pattern": _IDENTITY})]
Split = Annotated[str, AfterValidator(_split), WithJsonSchema({"type": "string", "pattern": _SPLIT})]
Sha256 = Annotated[str, AfterValidator(_sha256), WithJsonSchema({"type": "string", "pattern": _SHA256})]
Labels = Annotated[tuple[Label, ...], Field(strict=False, max_length=100)]
Count = Annotated[int, Field(ge=-(2**31), lt=2**31), BeforeValidator(whole)]
Positive = Annotated[int, Field(ge=1, le=10**9), BeforeValidator(whole)]
Requests = Annotated[int, Field(ge=1, le=10**6), BeforeValidator(whole)]
Waiting = Annotated[int, Field(ge=0, le=10**6), BeforeValidator(whole)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63), BeforeValidator(whole)]
NonNegative = Annotated[float, Field(ge=0, le=1e9)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
_DURATION_FORMS = WithJsonSchema(
    {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": _DURATION}]}
)
Duration = Annotated[float, Field(gt=0, le=1e7), BeforeValidator(_seconds), _DURATION_FORMS]
"""Seconds, written as a number or as 20s, 10m."""
UpToADay = Annotated[float, Field(gt=0, le=86_400), BeforeValidator(_seconds), _DURATION_FORMS]
"""A duration for which a client waits, in seconds."""
