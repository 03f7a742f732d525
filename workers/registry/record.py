"""Wire format of a worker's record and load report. Unknown fields are ignored, for rolling upgrades."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

SCHEMA_VERSION = 1
YEAR_10000 = 253402300800
"""Unix seconds."""

Count = Annotated[int, msgspec.Meta(ge=0)]
"""Non-negative. Validated on decode, because routers compute with it."""


class WorkerState(enum.StrEnum):
    """Only READY workers get new requests."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    RESTARTING = "restarting"
    SLEEPING = "sleeping"
    """vLLM is in sleep mode."""
    STOPPED = "stopped"
    UNKNOWN = "unknown"
    """Sent by an agent of a newer version. Not ready."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One served model. Without access to its files (attached or static vLLM), unknown fields keep their defaults."""

    name: str
    """First served name. Sent upstream as `model`."""
    aliases: tuple[str, ...] = ()
    digest: str = ""
    """64 lower-case hex digits over the files' contents; equal on equal replicas."""
    size: Count = 0
    """Bytes of weights on disk."""
    modified_at: Annotated[float, msgspec.Meta(ge=0, lt=YEAR_10000)] = 0.0
    """Unix seconds of the newest file."""
    format: str = "safetensors"
    architecture: str = ""
    """`model_type` of config.json, such as "llama"."""
    parameter_count: Count = 0
    quantization: str = ""
    """Ollama-style label: "BF16", "F16", "AWQ-INT4"."""
    context_length: Count = 0
    """vLLM's max_model_len in tokens. 0 if unknown."""
    embedding_length: Count = 0
    capabilities: tuple[str, ...] = ("completion",)
    """Subset of Ollama's set: completion, tools, insert, vision, embedding, thinking, audio."""
    undetected: tuple[str, ...] = ()
    """Further capabilities that it may have: subset of tools, thinking, vision. vLLM refuses what it cannot do."""
    has_template: bool = True
    """Without one, /api/chat answers 400 and /api/generate sends the prompt as it is."""
    template: str = ""
    """Jinja source."""
    defaults: dict[str, float | int | list[str]] = {}
    """Sampling defaults under Ollama's option names."""
    license: str = ""
    parent: str = ""
    """Served name of the base model, for a LoRA adapter."""
    metadata: dict[str, str | int | float | bool] = {}
    """Further Ollama `model_info` keys without the architecture prefix, such as "block_count"."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Written at registration."""

    id: str
    """Stable across agent restarts; unique in the fleet."""
    generation: int
    """Increases with every start of the agent, so that an older start is refused."""
    url: str
    """Base URL, such as "http://10.0.0.5:8100"."""
    models: tuple[ModelInfo, ...] = ()
    slots: Count = 0
    """--max-num-seqs; 0 if unknown."""
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Relative to the fleet's normal worker."""
    engine: str = "vllm"
    """"vllm" or "simulated"."""
    engine_version: str = ""
    tags: tuple[str, ...] = ()
    started: float = 0.0
    """Unix seconds, for display only."""
    host: str = ""
    pid: int = 0
    v: int = SCHEMA_VERSION


class EngineExit(msgspec.Struct, frozen=True, kw_only=True):
    """The latest unexpected end of an engine that its agent runs."""

    number: int = 0
    """Counts the ends since the agent's start. 0: none so far."""
    crashed: bool = False
    """The engine died by itself: not by a signal that anybody may have sent, nor by its agent."""
    cause: str = ""
    """Such as "SIGSEGV", "exit code 1" or "out of memory"."""


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    state: WorkerState = WorkerState.READY
    running: int = 0
    waiting: int = 0
    """Queued inside vLLM."""
    kv_usage: float = 0.0
    """Fraction of the KV cache in use, 0 to 1."""
    tokens_per_second: float = 0.0
    """Generated tokens per second since the last beat."""
    restarts: int = 0
    """vLLM restarts by the agent."""
    note: str = ""
    """Why the worker is not ready, or what is wrong with it, on one line."""
    exit: EngineExit | None = None
    """None if nobody sees how the engine ends: an attached or static vLLM, or an older agent."""
