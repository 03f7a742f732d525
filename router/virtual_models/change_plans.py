"""Plans for requests that create, copy, delete or pull a model. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllama_pool.config.names import InvalidName, Name, is_cloud, lookup_key, parse
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import BadRequest, ClientError, Forbidden
from vllama_pool.router.protocol.ollama import copying, create, pull
from vllama_pool.router.protocol.ollama.copying import CopyRequest
from vllama_pool.router.protocol.ollama.create import CreateRequest
from vllama_pool.router.protocol.ollama.not_found import NO_CLOUD
from vllama_pool.router.routing.listed_model import ListedModel
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import Rights
from vllama_pool.workers.registry.virtual_model import VirtualModel, digest_of

WRITES_OFF = "models cannot be changed here: VLLAMA_MODEL_WRITES is off"
UNSIGNED = "models cannot be changed here: routers cannot sign them; set VLLAMA_FLEET_SECRET"
CLOUD_NAME = "names ending in :cloud are reserved for ollama.com's models; choose another name"


class BaseMissing(ClientError):
    """The base is not in the pool. Ollama would pull it, and fail in the stream (R105)."""

    status = 500

    def __init__(self) -> None:
        super().__init__(pull.NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The existing models."""

    routes: ModelRoutes
    pool: Pool
    live: Mapping[str, VirtualModel]
    """Virtual models by key."""
    refusal: str = ""
    """Why models must not be changed, or ""."""
    rights: Rights | None = None
    """Of the client's key; None for all models."""

    def find(self, name: str) -> ListedModel | None:
        """None also for a model that the client may not use."""
        return self.routes.find(name, self.pool, self.rights)

    def is_hidden(self, name: str) -> bool:
        """True for an existing model that the client may not use."""
        return self.rights is not None and self.find(name) is None and self.routes.find(name, self.pool) is not None


@dataclass(frozen=True, slots=True)
class NewModel:
    model: VirtualModel
    """Without its revision."""
    existing: tuple[str, ...]
    """Digests of the parts from its source."""
    new: tuple[str, ...]
    """Digests of the request's parts."""


def plan_create(request: CreateRequest, inventory: Inventory) -> NewModel:
    """Check in Ollama's order. Raises ClientError, BaseMissing."""
    name = _target(request.requested, inventory)
    if not request.source:
        create.refuse_unsupported(request, "")
        raise BadRequest(create.NEITHER)
    if request.remote_host:
        raise Forbidden(NO_CLOUD)
    source = _source(request.source, inventory)
    create.refuse_unsupported(request, _template(source))
    return _made(name, source, request, inventory)


def plan_copy(request: CopyRequest, inventory: Inventory) -> VirtualModel | None:
    """Return None for a copy onto itself, which succeeds. Raises ClientError."""
    source = inventory.find(request.source)
    if source is None:
        _valid("source", request.source)
    destination = _valid("destination", request.destination)
    if lookup_key(request.source) == destination.key:
        return None
    if source is None:
        raise copying.no_source(request.source)
    if is_cloud(request.destination):
        raise Forbidden(CLOUD_NAME)
    _require_writable(inventory)
    _require_unused(request.destination, inventory)
    return _derived(destination, source, inventory)


def plan_delete(name: str, inventory: Inventory) -> VirtualModel:
    """Return the tombstone. Raises ClientError."""
    found = inventory.find(name)
    if found is None:
        raise copying.no_such_model(name)
    _require_writable(inventory)
    if found.virtual is None:
        raise Forbidden(f"{_owner(name, inventory)}: it cannot be deleted here")
    return VirtualModel(name=found.virtual.name, revision=1, deleted=True)


def plan_pull(name: str, inventory: Inventory) -> list[bytes]:
    """Return the lines of a pull that succeeds at once (R103). Raises ClientError, BaseMissing."""
    listed = inventory.find(name)
    if listed is None or not listed.infos:
        pull.check_name(name)
        raise BaseMissing
    return pull.success(base_digest(listed), max(info.size for info in listed.infos))


def base_digest(source: ListedModel) -> str:
    """64 hex digits over the base's files if a worker reports them, else over its name."""
    digests = [info.digest for info in source.infos if info.digest]
    return min(digests, default="") or digest_of(source.virtual.base if source.virtual else source.name)


def _made(name: Name, source: ListedModel, request: CreateRequest, inventory: Inventory) -> NewModel:
    old = source.virtual or VirtualModel(name=source.name, revision=1, base=source.name)
    model = VirtualModel(
        name=_spelled(name, inventory),
        revision=1,
        base=old.base,
        system=request.system or old.system,
        options={**old.options, **create.parameters(request)},
        messages=create.messages(request) or old.messages,
        licenses=tuple(dict.fromkeys((*old.licenses, *request.licenses))),
    )
    before = {kind: digest_of(part) for kind, part in old.parts.items()}
    after = {kind: digest_of(part) for kind, part in model.parts.items()}
    kept = tuple(digest for kind, digest in after.items() if before.get(kind) == digest)
    new = tuple(digest for kind, digest in after.items() if before.get(kind) != digest)
    return NewModel(model, (base_digest(source), *kept), new)


def _derived(name: Name, source: ListedModel, inventory: Inventory) -> VirtualModel:
    old = source.virtual
    changes: dict[str, Any] = {"name": _spelled(name, inventory), "revision": 1}
    if old is None:
        return VirtualModel(base=source.name, **changes)
    return VirtualModel(
        base=old.base,
        system=old.system,
        options=old.options,
        messages=old.messages,
        licenses=old.licenses,
        **changes,
    )


def _target(requested: str, inventory: Inventory) -> Name:
    try:
        name = parse(requested)
    except InvalidName as error:
        raise BadRequest(error.text) from None
    if is_cloud(requested):
        raise Forbidden(CLOUD_NAME)
    _require_writable(inventory)
    _require_unused(requested, inventory)
    return name


def _source(name: str, inventory: Inventory) -> ListedModel:
    """Search the pool first: workers may serve names that Ollama's grammar rejects."""
    found = inventory.find(name)
    if found is not None:
        return found
    try:
        parse(name)
    except InvalidName as error:
        raise BadRequest(error.text) from None
    if is_cloud(name):
        raise Forbidden(NO_CLOUD)
    raise BaseMissing


def _valid(field: str, name: str) -> Name:
    try:
        return parse(name)
    except InvalidName:
        raise copying.invalid_name(field, name) from None


def _require_writable(inventory: Inventory) -> None:
    if inventory.refusal:
        raise Forbidden(inventory.refusal)


def _require_unused(name: str, inventory: Inventory) -> None:
    if inventory.is_hidden(name):
        raise Forbidden(f"'{name}' cannot be used for a new model: choose another name")
    if inventory.routes.find_base(name, inventory.pool) is not None:
        raise Forbidden(f"{_owner(name, inventory)}: choose another name")


def _owner(name: str, inventory: Inventory) -> str:
    if inventory.routes.is_configured(name):
        return f"'{name}' is a name in the routing file"
    return f"'{name}' is served by vLLM workers"


def _spelled(name: Name, inventory: Inventory) -> str:
    """A model that is created again keeps its spelling."""
    existing = inventory.live.get(name.key)
    return existing.name if existing is not None else name.short


def _template(source: ListedModel) -> str:
    return next((info.template for info in source.infos if info.template), "")
