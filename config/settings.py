"""The settings of router and worker. Immutable; durations are in seconds.

Each field lists its environment variables, which command-line options override.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from vllama_pool.config.environment import Env, env_of, source_variable, trimmed, values_for
from vllama_pool.config.log_config import Level
from vllama_pool.config.redaction import redacted
from vllama_pool.config.redis_address import RedisAddress
from vllama_pool.config.setting_types import (
    YEAR,
    ApiKeys,
    Duration,
    DurationOrZero,
    FleetName,
    HostPatterns,
    InfiniteIfNegative,
    InfiniteUnlessPositive,
    ListenHost,
    ListenPort,
    LocalPath,
    Network,
    Networks,
    OllamaVersion,
    Origins,
    RedisUrl,
    Secret,
    StrongSecret,
    Unlimited,
)

LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
PRIVATE: tuple[Network, ...] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv6Network("fc00::/7"),
)
"""Excludes link-local and 100.64.0.0/10, where clouds run their metadata services."""


def _state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "vllama"
    try:
        return Path.home() / ".local" / "state" / "vllama"
    except RuntimeError:  # a container's user without a home
        return Path(tempfile.gettempdir()) / f"vllama-{os.geteuid()}"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)


class RegistrySettings(_Frozen):
    redis_url: Annotated[RedisUrl | None, Env("VLLAMA_REDIS_URL", "REDIS_URL")] = None
    """None: the embedded registry, for this machine only."""
    redis_wait: Annotated[DurationOrZero, Env("VLLAMA_REDIS_WAIT")] = 30.0
    """Limit for waiting at the start of `serve` for a Redis that cannot be used yet."""
    fleet: Annotated[FleetName, Env("VLLAMA_FLEET")] = "default"
    """Several fleets may share one Redis."""
    fleet_secret: Annotated[StrongSecret | None, Env("VLLAMA_FLEET_SECRET", file=True)] = None
    """Signs worker records and virtual models. Required with a shared Redis."""
    worker_networks: Annotated[Networks, Env("VLLAMA_WORKER_NETWORKS")] = Field(
        default_factory=lambda data: default_networks(data.get("redis_url"))
    )
    """Routers contact registered workers in these networks only."""
    state_dir: Annotated[LocalPath, Env("VLLAMA_STATE_DIR")] = Field(default_factory=_state_dir)
    """Socket, lock and logs of the embedded registry; virtual models. Readable by its user only."""

    @property
    def embedded(self) -> bool:
        """True if no network is used: embedded, or by a Unix socket."""
        return is_local(self.redis_url)


def is_local(redis_url: RedisAddress | None) -> bool:
    return redis_url is None or redis_url.is_local


def default_networks(redis_url: RedisAddress | None) -> tuple[Network, ...]:
    """Return loopback for a local registry; loopback and private networks for a Redis on the network."""
    return LOOPBACK if is_local(redis_url) else (*LOOPBACK, *PRIVATE)


def _embedded_registry() -> RegistrySettings:
    return RegistrySettings()


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)

    registry: RegistrySettings = Field(default_factory=_embedded_registry)
    worker_key: Annotated[Secret | None, Env("VLLAMA_WORKER_KEY", file=True)] = None
    """Bearer token between routers and workers; never stored in the registry."""
    grace: Annotated[Duration, Env("VLLAMA_GRACE")] = 30.0
    """Limit for running requests after a stop signal."""
    probe_timeout: Annotated[Duration, Env("VLLAMA_PROBE_TIMEOUT")] = 1.0
    """Time for a vLLM to answer a health check; an agent gives it three in a row."""
    log_level: Annotated[Level, Env("VLLAMA_LOG_LEVEL", "OLLAMA_DEBUG")] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls)


class _Environment(PydanticBaseSettingsSource):
    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return values_for(self.settings_cls, os.environ)


class RouterSettings(_Settings):
    host: Annotated[ListenHost, Env("VLLAMA_HOST", "OLLAMA_HOST")] = "127.0.0.1"
    """Address to listen on; IPv6 without brackets."""
    port: Annotated[ListenPort, Env("VLLAMA_PORT", "VLLAMA_HOST", "OLLAMA_HOST")] = 11434
    """0 lets the kernel choose."""
    processes: Annotated[int, Field(ge=1, le=64), Env("VLLAMA_PROCESSES")] = 1
    drain_delay: Annotated[DurationOrZero, Env("VLLAMA_DRAIN_DELAY")] = 0.0
    """Time after a stop signal in which routers still accept, but are not ready. Load balancers notice meanwhile."""
    routing_file: Annotated[LocalPath | None, Env("VLLAMA_ROUTING_FILE")] = None
    """None: every registered model is served under its own name."""
    version: Annotated[OllamaVersion, Env("VLLAMA_OLLAMA_VERSION")] = "0.33.0"
    """Ollama's version, shown to clients."""

    api_keys: Annotated[ApiKeys, Env("VLLAMA_API_KEYS", file=True, collect=True)] = ()
    allow_anonymous: Annotated[bool, Env("VLLAMA_ALLOW_ANONYMOUS")] = False
    """Serve requests without a key, even on public addresses or with configured keys."""
    admin_key: Annotated[StrongSecret | None, Env("VLLAMA_ADMIN_KEY", file=True)] = None
    """Opens /admin and /metrics to other machines."""
    origins: Annotated[Origins, Env("VLLAMA_ORIGINS", "OLLAMA_ORIGINS")] = ()
    """Additional to those of this machine and of desktop apps; `*` for any."""
    allowed_hosts: Annotated[HostPatterns, Env("VLLAMA_ALLOWED_HOSTS")] = ()
    """Additional to Ollama's own. If set, others are refused on public addresses too."""

    body_limit: Annotated[ByteSize, Field(gt=0, le=1 << 32), Env("VLLAMA_BODY_LIMIT")] = ByteSize(64 << 20)
    model_writes: Annotated[bool, Env("VLLAMA_MODEL_WRITES")] = True
    """Let clients create, copy and delete virtual models."""
    idle_timeout: Annotated[Unlimited, Env("VLLAMA_IDLE_TIMEOUT")] = 3600.0
    """Time until a client's connection without a request is closed. Ollama sets no limit."""
    max_queue: Annotated[int, Field(ge=0, le=10**9), Env("VLLAMA_MAX_QUEUE", "OLLAMA_MAX_QUEUE")] = 512
    """Waiting requests per router process, beyond the slots of the model's workers (R161, R188)."""
    keep_alive: Annotated[InfiniteIfNegative, Env("VLLAMA_KEEP_ALIVE", "OLLAMA_KEEP_ALIVE")] = 300.0
    """A model's remaining time in /api/ps."""
    connect_timeout: Annotated[Duration, Env("VLLAMA_CONNECT_TIMEOUT")] = 1.0
    first_token_timeout: Annotated[Duration, Env("VLLAMA_FIRST_TOKEN_TIMEOUT")] = 300.0
    """Time from sending a request to a worker to its first content."""
    stall_timeout: Annotated[Duration, Env("VLLAMA_STALL_TIMEOUT")] = 120.0
    """Maximum pause within an answer."""
    answer_timeout: Annotated[Duration, Env("VLLAMA_ANSWER_TIMEOUT")] = 1800.0
    """Time to the answer of a worker that sends nothing before it is complete, as on /v1 without `stream`."""
    total_timeout: Annotated[Unlimited, Env("VLLAMA_TOTAL_TIMEOUT")] = math.inf
    """Time from a request to the end of its response, with the time in queues and all attempts."""
    decisions: Annotated[int, Field(ge=0, le=20_000), Env("VLLAMA_DECISIONS")] = 2000
    """Latest requests per router process that `vllama explain` and `vllama check --against last` know; 0 for none."""
    trace: Annotated[bool, Env("VLLAMA_TRACE")] = False
    """Tell the route of each request in headers of its response, as `X-Vllama-Trace: 1` does for one."""
    max_choices: Annotated[int, Field(ge=1, le=1024), Env("VLLAMA_MAX_CHOICES")] = 16
    """Largest `n` of a request on /v1."""
    ready: Annotated[Literal["process", "any-model", "all-models"], Env("VLLAMA_READY")] = "process"
    """Condition of `/readyz` besides a router that does not drain and has seen its fleet: nothing, a model with an
    available worker, or an available worker for each model."""
    canary: Annotated[DurationOrZero, Env("VLLAMA_CANARY")] = 60.0
    """Time without a token of a worker after which the router asks for one, if requests are in progress there, its
    latest failed, or somebody asks for `/readyz`; 0 for never."""
    poison_time: Annotated[Duration, Env("VLLAMA_POISON_TIME")] = 600.0
    """Time for which a request that crashed two engines is refused, and for which crashes are remembered."""
    head_timeout: Annotated[Unlimited, Env("VLLAMA_HEAD_TIMEOUT")] = 10.0
    """Time from the first byte of a request's head to its last."""
    body_timeout: Annotated[Unlimited, Env("VLLAMA_BODY_TIMEOUT")] = 60.0
    """Time for a request's body to arrive, unless it arrives at 8 KiB/s."""
    client_stall: Annotated[Unlimited, Env("VLLAMA_CLIENT_STALL")] = 60.0
    """Time until a client is dropped that reads less than 4 KiB of its response."""
    max_connections: Annotated[int, Field(ge=0, le=10**7), Env("VLLAMA_MAX_CONNECTIONS")] = 65_536
    """Clients' connections per router process; 0 for no limit. Open files limit them too."""
    max_connections_per_client: Annotated[int, Field(ge=0, le=10**7), Env("VLLAMA_MAX_CONNECTIONS_PER_CLIENT")] = 16_384
    """Connections per router process from one address, which may be a proxy's; 0 for no limit."""


class WorkerSettings(_Settings):
    advertise: Annotated[str, Env("VLLAMA_ADVERTISE")] = "127.0.0.1"
    """Address for routers. vLLM listens on it only."""
    port: Annotated[int, Field(ge=0, le=65535), Env("VLLAMA_WORKER_PORT")] = 8100
    load_timeout: Annotated[InfiniteUnlessPositive, Env("VLLAMA_LOAD_TIMEOUT", "OLLAMA_LOAD_TIMEOUT")] = 1800.0
    """Limit for loading the model (R192)."""


def error_lines(error: ValidationError, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return one line per error: "VARIABLE: what is wrong; what to do".

    Repeats values of numbers only, because others may be secrets, and those that a check quotes.
    """
    settings = next((kind for kind in (RouterSettings, WorkerSettings) if kind.__name__ == error.title), None)
    lines: dict[str, None] = {}
    for item in error.errors(include_url=False, include_input=False):
        if item["type"] == "default_factory_not_called":  # a consequence of another error
            continue
        name, field = _variable_of(settings or RegistrySettings, item["loc"], environ)
        message = str(item["ctx"]["error"]) if item["type"] == "value_error" else _describe(item, name, field, environ)
        lines[redacted(f"{name}: {message}")] = None
    return list(lines)


def _variable_of(
    model: type[BaseModel], loc: tuple[int | str, ...], environ: Mapping[str, str]
) -> tuple[str, FieldInfo | None]:
    """Return the variable that sets a field, and the field; an unknown argument is its own name."""
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None:
            break
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
            continue
        return source_variable(env_of(field), environ) or str(part), field
    return ".".join(str(part) for part in loc), None


_HINTS = {
    "bool_parsing": "expected true or false; write 1 or 0",
    "byte_size": "expected a size; write one such as 64MiB",
    "byte_size_unit": "expected a size; write one such as 64MiB",
}


_BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than_equal": "le"}


def _describe(item: Any, name: str, field: FieldInfo | None, environ: Mapping[str, str]) -> str:
    kind = item["type"]
    if field is not None and (kind.startswith("int_") or kind in _BOUNDS):
        text = trimmed(environ.get(name, ""))
        given = f"'{text if len(text) <= 40 else text[:37] + '...'}'" if text else "the value"
        allowed = _whole_numbers(field) if field.annotation is int else _limit(_BOUNDS[kind], item["ctx"])
        return f"{given} {allowed}"
    if item["type"] in _HINTS:
        return _HINTS[item["type"]]
    if item["type"] == "literal_error":
        return f"expected {item['ctx']['expected']}; write one of them"
    return f"{item['msg'].removeprefix('Input ').lower()}; correct it"


def _whole_numbers(field: FieldInfo) -> str:
    low, high = (
        next(getattr(item, bound) for item in field.metadata if hasattr(item, bound)) for bound in ("ge", "le")
    )
    return f"is not a whole number from {low} to {high}; correct it"


def _limit(bound: str, context: Mapping[str, Any]) -> str:
    """Describe a bound of a duration or a size that was not kept."""
    number = "8760h, a year" if context[bound] == YEAR else f"{context[bound]:.0f}"
    wrong, right = {
        "gt": ("is not more than {}", "more than {}"),
        "ge": ("is less than {}", "{} or more"),
        "le": ("is more than {}", "{} or less"),
    }[bound]
    return f"{wrong.format(number)}; write {right.format(number.partition(',')[0])}"
