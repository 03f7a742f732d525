"""The routing table: models by name, and static workers.

`load` reads it from YAML and reports all problems of a file together. It imports the reader, which most processes start
without.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllama_pool.config.routing import schema
    from vllama_pool.config.routing.yaml_document import Problem

DEFAULT_FILE = Path(__file__).parents[1] / "routing.yaml"
"""The commented default: an empty table."""

LEAST_LOAD = "least-load"


@dataclass(frozen=True, slots=True)
class ServeTarget:
    model: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """The served models of one client-facing name. Compare names by `names.lookup_key`."""

    name: str
    serve: tuple[ServeTarget, ...]
    """Not empty. Never names another entry."""
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Sampling defaults under Ollama's option names."""
    policy: str = LEAST_LOAD
    """"least-load" or "round-robin"."""
    stream_interval: int = 1
    """Tokens per event of a streamed answer."""
    completions: str = "raw"
    """"raw" or "templated"."""


@dataclass(frozen=True, slots=True)
class StaticWorker:
    """A vLLM server without an agent."""

    url: str
    """Base URL in the form of `urls.worker_url`."""
    name: str
    """Unique; the URL if the file gives no name."""
    slots: int = 0
    """Requests that it runs at once; 0 if unknown."""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoutingTable:
    models: tuple[ModelRoute, ...] = ()
    workers: tuple[StaticWorker, ...] = ()


class RoutingError(Exception):
    """An invalid routing file.

    `str()` has one line per problem, in file order: "FILE:LINE:COL: key: what is wrong; what to do".
    """

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(problem.located(file) for problem in self.problems))


def load(path: Path) -> RoutingTable:
    """Read a routing file. Raises RoutingError, also if the file cannot be read."""
    from vllama_pool.config.routing.yaml_document import MAX_BYTES, Problem

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RoutingError(str(path), [Problem(0, 0, "", "not a file; name a YAML file")])
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        why = error.strerror or "cannot be read"
        raise RoutingError(str(path), [Problem(0, 0, "", f"{why}; name a readable file")]) from None
    return parse(data, str(path))


def parse(data: bytes, file: str = "routing.yaml") -> RoutingTable:
    """Parse a file's bytes; `file` is for messages. Raises RoutingError."""
    from pydantic import ValidationError

    from vllama_pool.config.routing import checks, messages, schema, yaml_document

    document = yaml_document.parse(data)
    if document.value is None:
        document.value = {}
    problems = list(document.problems)
    entries = None
    try:
        entries = schema.RoutingFile.model_validate(document.value)
    except ValidationError as error:
        problems += [messages.problem_for(item, document) for item in error.errors(include_url=False)]
    if isinstance(document.value, dict):
        problems += checks.find_conflicts(document)
    if problems or entries is None:
        raise RoutingError(file, problems)
    return _table(entries)


def _table(entries: schema.RoutingFile) -> RoutingTable:
    return RoutingTable(
        tuple(_route(name.strip(), entry) for name, entry in (entries.models or {}).items()),
        tuple(
            StaticWorker(worker.url, worker.name or worker.url, worker.slots, tuple(worker.tags or ()))
            for worker in entries.workers or ()
        ),
    )


def _route(name: str, entry: schema.ModelEntry) -> ModelRoute:
    serve = entry.serve or name
    targets = [serve] if isinstance(serve, str) else serve
    return ModelRoute(
        name,
        tuple(ServeTarget(item) if isinstance(item, str) else ServeTarget(item.model, item.weight) for item in targets),
        tuple(alias.strip() for alias in entry.aliases or ()),
        MappingProxyType(entry.options.model_dump(exclude_none=True) if entry.options else {}),
        entry.policy,
        entry.stream_interval,
        entry.completions,
    )
