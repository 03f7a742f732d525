"""The routing file: one declaration for the loader, for the router, for editors (JSON Schema) and for the docs."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vllama_pool.config.routing.editor_schema import with_variables
from vllama_pool.config.routing.model_entry import ModelEntry
from vllama_pool.config.routing.schema_types import (
    Label,
    Labels,
    Message,
    NameOrPattern,
    Positive,
    Requests,
    Section,
    Sha256,
    WorkerUrl,
    whole,
)

Weight = Annotated[int, Field(ge=1, le=1000), BeforeValidator(whole)]


class WorkerEntry(Section):
    """A vLLM server without an agent."""

    url: WorkerUrl = Field(description="Base URL, such as http://10.0.0.5:8000.")
    name: Label | None = Field(None, description="For logs and tables. Left out: the URL.")
    slots: Annotated[int, Field(ge=0, le=100_000), BeforeValidator(whole)] = Field(
        0, description="Requests it runs at once; 0 if unknown."
    )
    tags: Labels = Field((), description="For `workers` of a model.")
    maintenance: Message | None = Field(None, description="Set the worker aside. Shown in `vllama ps`.")

    @property
    def label(self) -> str:
        """The name; the URL if the file gives none."""
        return self.name or self.url


class Maintenance(Section):
    """Sets workers aside, registered ones too. They get no further requests."""

    workers: Labels = Field((), description="Names or ids of workers.")
    tags: Labels = Field((), description="All workers with one of these tags.")
    message: Message = Field(description="Shown to clients if no other worker is left, and in `vllama ps`.")


class Caps(Section):
    """Limits of a team or a key."""

    concurrency: Requests | None = Field(
        None,
        description="Requests in progress, of all router processes together. One more gets a 429. Each process admits "
        "its share, rounded up.",
    )
    output: Positive | None = Field(
        None, description="Longest answer in tokens. The smallest limit of model, key and team counts."
    )


class Team(Section):
    """A group of keys."""

    models: Annotated[tuple[NameOrPattern, ...], Field(strict=False, max_length=1000)] | None = Field(
        None,
        description="Models that its keys may use, as names, aliases or patterns. Others look unknown to them. Left "
        "out: all.",
    )
    weight: Weight = Field(
        1,
        description="Its share of the turns while requests wait for a place (`concurrency` of a model), relative to "
        "other teams and to keys without a team. Clients without a key have 1 for each address.",
    )
    limits: Caps | None = Field(None, description="Of all its keys together.")


class Key(Team):
    """An API key."""

    models: Annotated[tuple[NameOrPattern, ...], Field(strict=False, max_length=1000)] | None = Field(
        None,
        description="Models that it may use, as names, aliases or patterns, if its team may use them, too. Left out: "
        "all.",
    )
    sha256: Sha256 = Field(description="SHA-256 of the secret, in hex. `vllama key` makes both.")
    team: Label | None = Field(None, description="A name under `teams`.")
    weight: Weight = Field(
        1, description="As a team's, of a key without a team. A key of a team shares its team's turns and has none."
    )
    limits: Caps | None = Field(None, description="Of this key.")


class Reload(Section):
    """Rules for a reload."""

    orphans: Literal["refuse", "allow"] = Field(
        "refuse", description="A reload after which a model in use would be unknown."
    )


class RoutingFile(Section):
    """Routing table of vLLama."""

    include: Annotated[tuple[str, ...], Field(strict=False, max_length=100)] = Field(
        (), description="Further files, or patterns such as conf.d/*.yaml, relative to this file and within its folder."
    )
    models: dict[NameOrPattern, ModelEntry] | None = Field(
        None,
        description="Names that clients ask for, or patterns such as llama3*. Models of workers are served without "
        "being listed.",
    )
    workers: Annotated[tuple[WorkerEntry, ...], Field(strict=False, max_length=10_000)] | None = Field(
        None, description="vLLM servers without an agent."
    )
    maintenance: Annotated[tuple[Maintenance, ...], Field(strict=False, max_length=1000)] = Field(
        (), description="Workers that are set aside."
    )
    teams: dict[Label, Team] | None = Field(None, description="Groups of keys.")
    keys: dict[Label, Key] | None = Field(None, description="API keys, in addition to VLLAMA_API_KEYS.")
    reload: Reload = Reload()


def base_schema() -> dict[str, Any]:
    """Return the JSON Schema of the values, after variables were replaced."""
    return RoutingFile.model_json_schema()


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a routing file, for editors."""
    schema: dict[str, Any] = with_variables(base_schema())
    schema["patternProperties"] = {"^x-": True}  # free form, for anchors
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
