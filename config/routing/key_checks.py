"""Checks of the API keys of a routing file against the router's settings."""

from __future__ import annotations

from collections.abc import Iterable

from vllama_pool.config.api_keys import ApiKey
from vllama_pool.config.routing.places import Place, Problem
from vllama_pool.config.routing.table import RoutingError, RoutingTable

NO_KEYS = (
    "has no key, so that anyone could use the models; add one (vllama key new NAME makes it), or set "
    "VLLAMA_ALLOW_ANONYMOUS=1"
)


def check_keys(table: RoutingTable, others: Iterable[ApiKey], *, required: bool) -> None:
    """Raise RoutingError for keys that VLLAMA_API_KEYS (`others`) has, too, and for no key at all if one is required.

    A reload with such a table must not take effect.
    """
    others, keys = tuple(others), table.entries.keys or {}
    names, owners = {key.name for key in others}, {key.digest.hex(): key.name for key in others}
    for name, key in keys.items():
        if name in names:
            raise _refused(table, name, "VLLAMA_API_KEYS has a key of this name, too; rename or remove one")
        if (owner := owners.get(key.sha256)) is not None:
            raise _refused(table, name, f"the same key as '{owner}' of VLLAMA_API_KEYS; remove one")
    if required and not keys and not others:
        raise _refused(table, None, NO_KEYS)


def _refused(table: RoutingTable, key: str | None, message: str) -> RoutingError:
    path = ("keys",) if key is None else ("keys", key)
    file = str(table.files[0]) if table.files else ""
    place = table.places.get(path, Place(file))
    return RoutingError(file or place.file, [Problem(place, ".".join(path), message)], files=table.files)
