"""Types of the settings, which parse and check text.

Checks raise ValueError with "what is wrong; what to do", without secrets.
"""

from __future__ import annotations

import math
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, SecretStr

from vllama_pool.config import redis_address, redis_tls
from vllama_pool.config.api_keys import ApiKey, parse_keys, require_unique
from vllama_pool.config.durations import seconds
from vllama_pool.config.environment import FromFile, HostPort
from vllama_pool.config.listen import parse_listen
from vllama_pool.config.redis_address import RedisAddress

Network = IPv4Network | IPv6Network


def _read_file(value: Any) -> Any:
    return value.read() if isinstance(value, FromFile) else value


def _split_list(value: Any) -> Any:
    return tuple(item for item in re.split(r"[,\s]+", value) if item) if isinstance(value, str) else value


def _parse_duration(value: Any) -> Any:
    return seconds(value) if isinstance(value, str) else value


def _infinite_if_negative(value: float) -> float:
    return math.inf if value < 0 else value


def _infinite_if_zero(value: float) -> float:
    return value or math.inf


def _parse_host(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    listen = parse_listen(value)
    _require_http(listen.scheme)
    return listen.host or "0.0.0.0"


def _parse_port(value: Any) -> Any:
    if not isinstance(value, HostPort):
        return value
    listen = parse_listen(value)
    _require_http(listen.scheme)
    return listen.port


def _require_http(scheme: str) -> None:
    if scheme == "https":
        raise ValueError("https is not supported; listen on http:// and put a TLS proxy in front")
    if scheme != "http":
        raise ValueError(f"{scheme[:20]}:// is not supported; write HOST:PORT")


def _parse_redis_url(value: Any) -> Any:
    return redis_tls.check_files(redis_address.parse(value)) if isinstance(value, str) else value


def _parse_networks(value: Any) -> Any:
    return tuple(_parse_network(item) for item in _split_list(value)) if isinstance(value, str) else value


def _parse_network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        near = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"'{text[:60]}' is not a network; write one such as 10.0.0.0/8") from None
    raise ValueError(f"'{text[:60]}' has bits beyond its prefix; write {near}")


def _collect_api_keys(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    keys: list[ApiKey] = []
    for source in value:
        if isinstance(source, ApiKey):
            keys.append(source)
            continue
        parsed = parse_keys(_read_file(source))
        if not parsed:
            raise ValueError("contains no key; write NAME:SHA256, or leave it unset")
        keys += parsed
    return tuple(keys)


def _check_origin(text: str) -> str:
    if "*" not in text and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s]+\Z", text):
        raise ValueError(f"'{text[:80]}' is not an origin; write scheme://host[:port], with * for any part, or *")
    return text.lower()


def _check_host_pattern(text: str) -> str:
    if not re.match(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?\Z|\[?[0-9A-Fa-f:.]+\]?\Z", text):
        raise ValueError(f"'{text[:80]}' is not a host; write a name without port, or *.example.com")
    return text.lower().rstrip(".")


def _check_length(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < 16:
        raise ValueError("shorter than 16 characters; make one with: openssl rand -hex 32")
    return value


def _check_printable(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("has blanks or non-ASCII characters; make one with: openssl rand -hex 32")
    return value


def _check_fleet_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise ValueError("may have up to 64 letters, digits, '.', '_' and '-'; rename it")
    return text


def _check_version(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}", text):
        raise ValueError("must be three numbers, because clients parse it; write a version such as 0.33.0")
    return text


def _absolute_path(path: Path) -> Path:
    return path.expanduser().absolute()


YEAR = 86400 * 365
"""Longest duration of our own settings, in seconds. A longer one is a typing mistake."""
Seconds = Annotated[float, BeforeValidator(_parse_duration)]
Duration = Annotated[Seconds, Field(gt=0, le=YEAR)]
DurationOrZero = Annotated[Seconds, Field(ge=0, le=YEAR)]
InfiniteIfNegative = Annotated[Seconds, AfterValidator(_infinite_if_negative)]
InfiniteUnlessPositive = Annotated[InfiniteIfNegative, AfterValidator(_infinite_if_zero)]
"""For settings that Ollama has too, which takes any length."""
Unlimited = Annotated[Seconds, Field(le=YEAR), AfterValidator(_infinite_if_negative), AfterValidator(_infinite_if_zero)]
"""A duration up to a year; infinite if it is 0 or less."""
Secret = Annotated[SecretStr, BeforeValidator(_read_file), AfterValidator(_check_printable)]
StrongSecret = Annotated[Secret, AfterValidator(_check_length)]
ApiKeys = Annotated[tuple[ApiKey, ...], BeforeValidator(_collect_api_keys), AfterValidator(require_unique)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_check_origin)], ...], BeforeValidator(_split_list)]
HostPatterns = Annotated[tuple[Annotated[str, AfterValidator(_check_host_pattern)], ...], BeforeValidator(_split_list)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_parse_networks)]
ListenHost = Annotated[str, BeforeValidator(_parse_host)]
ListenPort = Annotated[int, BeforeValidator(_parse_port), Field(ge=0, le=65535)]
RedisUrl = Annotated[InstanceOf[RedisAddress], BeforeValidator(_parse_redis_url)]
FleetName = Annotated[str, AfterValidator(_check_fleet_name)]
OllamaVersion = Annotated[str, AfterValidator(_check_version)]
LocalPath = Annotated[Path, AfterValidator(_absolute_path)]
