"""The schema of a routing file, for the loader and, as JSON Schema, for editors."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
)

from vllama_pool.config import names, urls

NOT_YET = frozenset({"fallback", "limits"})
"""Planned keys of a model. They are refused with a message of their own."""

REMOVED_OPTIONS = frozenset(
    {
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "tfs_z",
        "penalize_newline",
        "numa",
        "low_vram",
        "f16_kv",
        "logits_all",
        "vocab_only",
        "use_mlock",
    }
)
"""Options that Ollama once had and now ignores (R143)."""


def _model_name(text: str) -> str:
    if names.is_cloud(text):
        raise ValueError("names a model of ollama.com, which vLLama does not serve; remove the cloud suffix")
    try:
        names.parse(text)
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


def _whole(value: Any) -> Any:
    """JSON Schema counts 1e3 as an integer; YAML does not."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


ModelName = Annotated[str, StringConstraints(min_length=1, max_length=600), AfterValidator(_model_name)]
ServedName = Annotated[str, StringConstraints(min_length=1, max_length=600), AfterValidator(_served_name)]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}$")]
Count = Annotated[int, Field(ge=-(2**31), lt=2**31), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63), BeforeValidator(_whole)]
NonNegative = Annotated[float, Field(ge=0, le=1e9)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ModelOptions(_Section):
    """Defaults for a model's sampling, under Ollama's names, as a Modelfile's PARAMETER (R126-R142).

    A request's own options win. Those without a counterpart in vLLM are accepted and have no effect.
    """

    num_predict: Count | None = Field(None, description="Longest answer in tokens; negative: no limit.")
    temperature: NonNegative | None = Field(None, description="0 is deterministic; Ollama's default is 0.8.")
    top_k: Count | None = Field(None, description="Choose among so many tokens; 0 or less: all.")
    top_p: Fraction | None = None
    min_p: Fraction | None = None
    typical_p: Fraction | None = Field(None, description="No counterpart in vLLM: no effect.")
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] | None = Field(None, description="1.0 is off.")
    repeat_last_n: Count | None = Field(None, description="0 turns repeat_penalty off.")
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = Field(None, description="Negative: random.")
    stop: Annotated[list[str], Field(max_length=64)] | None = Field(None, description="Texts that end the answer.")
    num_ctx: Count | None = Field(None, description="Truncation budget; vLLM's own window is fixed.")
    num_keep: Count | None = Field(None, description="No counterpart in vLLM: no effect.")
    num_batch: Count | None = Field(None, description="No counterpart in vLLM: no effect.")
    num_gpu: Count | None = Field(None, description="No counterpart in vLLM: no effect.")
    main_gpu: Count | None = Field(None, description="No counterpart in vLLM: no effect.")
    num_thread: Count | None = Field(None, description="No counterpart in vLLM: no effect.")
    use_mmap: bool | None = Field(None, description="No counterpart in vLLM: no effect.")
    draft_num_predict: Count | None = Field(None, description="No counterpart in vLLM: no effect.")


class Target(_Section):
    """One of several served models, and its share of the requests."""

    model: ServedName = Field(description="A model as vLLM serves it.")
    weight: Annotated[int, Field(ge=1, le=10_000), BeforeValidator(_whole)] = Field(
        1, description="Share of the requests, relative to its neighbours'."
    )


def _target_form(value: Any) -> str | None:
    return "<name>" if isinstance(value, str) else "<target>" if isinstance(value, dict | Target) else None


def _serve_form(value: Any) -> str | None:
    return "<name>" if isinstance(value, str) else "<list>" if isinstance(value, list) else None


_EitherTarget = Annotated[
    Annotated[ServedName, Tag("<name>")] | Annotated[Target, Tag("<target>")],
    Discriminator(_target_form, custom_error_type="form", custom_error_message="a served model or {model, weight}"),
]
_Serve = Annotated[
    Annotated[ServedName, Tag("<name>")]
    | Annotated[list[_EitherTarget], Field(min_length=1, max_length=100), Tag("<list>")],
    Discriminator(_serve_form, custom_error_type="form", custom_error_message="a served model or a list of them"),
]


class ModelEntry(_Section):
    """The models behind one name that clients use, and their options."""

    serve: _Serve | None = Field(
        None,
        description="The model as vLLM serves it, or a list of {model, weight}. Left out: the entry's own name.",
    )
    aliases: Annotated[list[ModelName], Field(max_length=1000)] | None = Field(
        None, description="Further names of the same entry."
    )
    options: ModelOptions | None = None
    policy: Literal["least-load", "round-robin"] = Field("least-load", description="How a worker is chosen.")
    stream_interval: Annotated[int, Field(ge=1, le=1000), BeforeValidator(_whole)] = Field(
        1,
        description="Tokens that vLLM sends at once while it streams an answer. More costs less CPU; text arrives in "
        "steps. Without effect on requests with tools and on releases of vLLM before 0.32.",
    )
    completions: Literal["raw", "templated"] = Field(
        "raw",
        description="How /v1/completions treats a prompt: raw sends it as it is, as vLLM and OpenAI do; templated puts "
        "it into the model's chat template, as Ollama does.",
    )


class WorkerEntry(_Section):
    """A vLLM server without an agent."""

    url: Annotated[str, AfterValidator(_worker_url)] = Field(description="Base URL, such as http://10.0.0.5:8000.")
    name: Label | None = Field(None, description="For logs and tables. Left out: the URL.")
    slots: Annotated[int, Field(ge=0, le=100_000), BeforeValidator(_whole)] = Field(
        0, description="Requests it runs at once; 0 if unknown."
    )
    tags: Annotated[list[Label], Field(max_length=100)] | None = None


class RoutingFile(_Section):
    """Routing table of vLLama."""

    models: dict[ModelName, ModelEntry] | None = Field(
        None, description="Names that clients ask for. Models of workers are served without being listed."
    )
    workers: Annotated[list[WorkerEntry], Field(max_length=10_000)] | None = Field(
        None, description="vLLM servers without an agent."
    )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a routing file, for editors."""
    schema = RoutingFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
