"""What a request to create, copy or delete a model means, given what is inventory. Pure: a plan, or a ClientError."""

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
from vllama_pool.router.routing.resolve import Listed, Routes
from vllama_pool.workers.registry.virtual_model import VirtualModel, digest_of

WRITES_OFF = "models cannot be changed here: VLLAMA_MODEL_WRITES is off"
UNSIGNED = "models cannot be changed here: set VLLAMA_FLEET_SECRET, with which the fleet's routers sign them"
CLOUD_NAME = "names with :cloud are those of ollama.com's models; choose another name"


class BaseMissing(ClientError):
    """The base is not in the pool. Ollama would try to pull it, and say so in the stream (R105)."""

    status = 500

    def __init__(self) -> None:
        super().__init__(pull.NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What there is now."""

    routes: Routes
    pool: Pool
    live: Mapping[str, VirtualModel]
    """The virtual models by the key of their names."""
    refusal: str = ""
    """Why no model may be changed at all; "" if they may."""

    def find(self, name: str) -> Listed | None:
        return self.routes.find(name, self.pool)


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model that is to be made."""

    model: VirtualModel
    """Without a revision yet (1)."""
    existing: tuple[str, ...]
    """Digests of the parts that were there before: the base's, and those of a virtual model that it is made from."""
    new: tuple[str, ...]


def plan_create(request: CreateRequest, inventory: Inventory) -> NewModel:
    """In Ollama's order of checks. Raises ClientError, BaseMissing out of it."""
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
    """None where source and destination are one name: that succeeds without a change. Raises ClientError."""
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
    _may_write(inventory)
    _not_taken(request.destination, inventory)
    return _derived(destination, source, inventory)


def plan_delete(wanted: str, inventory: Inventory) -> VirtualModel:
    """The tombstone. Raises ClientError."""
    found = inventory.find(wanted)
    if found is None:
        raise copying.no_such_model(wanted)
    _may_write(inventory)
    if found.virtual is None:
        raise Forbidden(f"{_owner(wanted, inventory)}: it cannot be deleted here")
    return VirtualModel(name=found.virtual.name, revision=1, deleted=True)


def plan_pull(wanted: str, inventory: Inventory) -> list[bytes]:
    """Return the lines of a successful pull of a model on a worker (R103). Raises ClientError, BaseMissing."""
    listed = inventory.find(wanted)
    if listed is None or not listed.replicas:
        pull.check_name(wanted)
        raise BaseMissing
    return pull.success(base_digest(listed), max(target.model.size for target in listed.replicas))


def base_digest(source: Listed) -> str:
    """64 hex digits for the model underneath: of its files, where a worker has read them."""
    digests = [target.model.digest for target in source.replicas if target.model.digest]
    return min(digests, default="") or digest_of(source.virtual.base if source.virtual else source.name)


# inside


def _made(name: Name, source: Listed, request: CreateRequest, inventory: Inventory) -> NewModel:
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


def _derived(name: Name, source: Listed, inventory: Inventory) -> VirtualModel:
    """The same model under another name."""
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


def _target(wanted: str, inventory: Inventory) -> Name:
    """The name of a model that is to be made."""
    try:
        name = parse(wanted)
    except InvalidName as error:
        raise BadRequest(error.text) from None
    if is_cloud(wanted):
        raise Forbidden(CLOUD_NAME)
    _may_write(inventory)
    _not_taken(wanted, inventory)
    return name


def _source(wanted: str, inventory: Inventory) -> Listed:
    """The model that another is made from. Names that Ollama's grammar does not have may be served, so the pool is
    asked first."""
    found = inventory.find(wanted)
    if found is not None:
        return found
    try:
        parse(wanted)
    except InvalidName as error:
        raise BadRequest(error.text) from None
    if is_cloud(wanted):
        raise Forbidden(NO_CLOUD)
    raise BaseMissing


def _valid(field: str, wanted: str) -> Name:
    try:
        return parse(wanted)
    except InvalidName:
        raise copying.invalid_name(field, wanted) from None


def _may_write(inventory: Inventory) -> None:
    if inventory.refusal:
        raise Forbidden(inventory.refusal)


def _not_taken(wanted: str, inventory: Inventory) -> None:
    if inventory.routes.find_base(wanted, inventory.pool) is not None:
        raise Forbidden(f"{_owner(wanted, inventory)}: choose another name")


def _owner(wanted: str, inventory: Inventory) -> str:
    """Who has a name that is no virtual model's."""
    if inventory.routes.is_configured(wanted):
        return f"'{wanted}' is a name in the routing file"
    return f"'{wanted}' is served by vLLM workers"


def _spelled(name: Name, inventory: Inventory) -> str:
    """A model that is made anew keeps the spelling that it had."""
    existing = inventory.live.get(name.key)
    return existing.name if existing is not None else name.short


def _template(source: Listed) -> str:
    return next((target.model.template for target in source.replicas if target.model.template), "")
