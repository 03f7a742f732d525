"""What a worker publishes of itself: the record, the models in it, and the load report.

These types are the wire contract between agents and routers. They are frozen, carry a schema version, and
unknown fields are ignored, so that a fleet can be upgraded one process at a time.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

SCHEMA_VERSION = 1
YEAR_10000 = 253402300800
"""Unix seconds."""

Count = Annotated[int, msgspec.Meta(ge=0)]
"""What is no count is refused when a record is read: routers reckon with it."""


class WorkerState(enum.StrEnum):
    """Where a worker stands in its life. Only READY workers are given new requests."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    RESTARTING = "restarting"
    SLEEPING = "sleeping"
    """vLLM sleeps (its sleep mode): it accepts requests, and leaves them waiting until it wakes up."""
    STOPPED = "stopped"


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model as a worker serves it, read from the model's own files where there are any.

    A worker that cannot read the files (an attached or static vLLM) leaves what it does not know at its
    default; the catalogue then says so rather than invent it.
    """

    name: str
    """The name that vLLM's answers carry: the first of its served names. Sent upstream as `model`."""
    aliases: tuple[str, ...] = ()
    """Further served names of the same model."""
    digest: str = ""
    """64 lower-case hex digits over the model's files (never over times); equal on equal replicas."""
    size: Count = 0
    """Bytes of weights on disk."""
    modified_at: Annotated[float, msgspec.Meta(ge=0, lt=YEAR_10000)] = 0.0
    """Unix seconds: newest modification of the model's files."""
    format: str = "safetensors"
    architecture: str = ""
    """`model_type` of config.json, such as "llama"; Ollama's `general.architecture` and `family`."""
    parameter_count: Count = 0
    quantization: str = ""
    """Ollama's style: "BF16", "F16", "AWQ-INT4"."""
    context_length: Count = 0
    """vLLM's max_model_len, in tokens. 0 where unknown."""
    embedding_length: Count = 0
    capabilities: tuple[str, ...] = ("completion",)
    """Out of Ollama's closed set: completion, tools, insert, vision, embedding, thinking, audio."""
    has_template: bool = True
    """Whether chat can be templated. False makes /api/chat a 400 and /api/generate untemplated."""
    template: str = ""
    """The Jinja chat template's text."""
    defaults: dict[str, float | int | list[str]] = {}
    """Sampling defaults of generation_config.json, under Ollama's option names."""
    license: str = ""
    parent: str = ""
    """For a LoRA adapter: the served name of its base model."""
    metadata: dict[str, str | int | float | bool] = {}
    """Further keys of Ollama's `model_info`, without the architecture prefix, such as "block_count"."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that vLLM answers to for this model."""
        return (self.name, *self.aliases)


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a router must know to use a worker; written once at registration, and signed."""

    id: str
    """Stable over restarts of the agent; unique in the fleet."""
    generation: int
    """Grows with every start of the agent, so that a zombie of an older start can be refused."""
    url: str
    """The base URL that routers use, such as "http://10.0.0.5:8100"."""
    models: tuple[ModelInfo, ...] = ()
    slots: Count = 0
    """Requests that vLLM runs at once (--max-num-seqs). 0 where unknown."""
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Relative speed, 1.0 for the fleet's normal worker."""
    engine: str = "vllm"
    """"vllm", or "simulated" for the simulated worker."""
    engine_version: str = ""
    tags: tuple[str, ...] = ()
    started: float = 0.0
    """Unix seconds, for display only: no clocks are compared."""
    host: str = ""
    pid: int = 0
    v: int = SCHEMA_VERSION


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker reports with every beat."""

    state: WorkerState = WorkerState.READY
    running: int = 0
    """Requests in vLLM's running batch."""
    waiting: int = 0
    """Requests waiting inside vLLM."""
    kv_usage: float = 0.0
    """Share of the KV cache in use, 0 to 1."""
    tokens_per_second: float = 0.0
    """Generated tokens per second since the last beat."""
    restarts: int = 0
    """How often the agent has restarted vLLM."""
    note: str = ""
    """Why the worker is not ready, in one short line (the cause of a crash, what it is loading)."""
