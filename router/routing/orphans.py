"""Finds the models in use that a new routing table would leave without a worker. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.routing.resolve import ModelRoutes


@dataclass(frozen=True, slots=True)
class WorkerChanges:
    """Static workers that a new table adds and removes."""

    removed: Collection[str] = ()
    """Ids."""
    added: bool = False
    """Nobody knows yet which models these serve."""


def find_orphans(
    names: Iterable[str], old: ModelRoutes, new: ModelRoutes, pool: Pool, changes: WorkerChanges
) -> tuple[str, ...]:
    """Return those names, sorted, that some worker serves under the old table and none would under the new one.

    The workers' state does not matter: a model whose workers are down is served. Workers that the table adds get the
    benefit of the doubt for names that the new table or a removed worker knows. Requests of a model that
    starts from zero wait for a worker.
    """
    return tuple(sorted({name for name in names if _is_orphan(name, old, new, pool, changes)}))


def _is_orphan(name: str, old: ModelRoutes, new: ModelRoutes, pool: Pool, changes: WorkerChanges) -> bool:
    if not _workers(name, old, pool) or _workers(name, new, pool) - set(changes.removed):
        return False
    listed = new.find(name, pool)
    return listed is None or not (changes.added or listed.assumed is not None)


def _workers(name: str, routes: ModelRoutes, pool: Pool) -> set[str]:
    """Return the workers of a name and of its fallbacks."""
    listed = (routes.find(one, pool) for one in (name, *routes.rules.chain(name, "no_worker")))
    return {replica.worker.id for model in listed if model is not None for replica in model.replicas}
