"""The parts of a router process that a new routing table replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.admission.entry_limits import request_limits
from vllama_pool.router.admission.keyring import Keyring, KeyTable
from vllama_pool.router.reload import Fleet, Prepare
from vllama_pool.router.reports import Reports
from vllama_pool.router.routing.live import LiveRoutes
from vllama_pool.router.routing.maintenance import Maintenance
from vllama_pool.router.routing.orphans import WorkerChanges, find_orphans
from vllama_pool.router.server.access import Access
from vllama_pool.router.state import RouterState


@dataclass(frozen=True, slots=True)
class KeyAccess:
    """The API keys of a table, and the access control that asks for them."""

    settings: RouterSettings
    keyring: Keyring
    routes: LiveRoutes
    host_name: str

    def open(self, table: RoutingTable) -> Access:
        """Put the keys of the first table into effect. Raises RoutingError."""
        keys, access = self._read(table)
        self.keyring.use(keys)
        return access

    def prepare(self, use: Callable[[Access], None], table: RoutingTable) -> Callable[[], None]:
        """`routes` have been prepared for the table. `use` replaces the access control. Raises RoutingError."""
        keys, access = self._read(table)

        def apply() -> None:
            self.keyring.use(keys)
            use(access)

        return apply

    def _read(self, table: RoutingTable) -> tuple[KeyTable, Access]:
        keys = self.keyring.read(table, self.routes.next.names_of)
        return keys, Access.from_settings(self.settings, keys.grants, [self.host_name])


def reloadable_parts(state: RouterState, keys: KeyAccess, use: Callable[[Access], None]) -> tuple[Prepare, ...]:
    """Return the parts in the order in which they are prepared and put into effect. `use`: see `KeyAccess`."""
    return (
        state.routes.prepare,
        partial(keys.prepare, use),
        lambda table: partial(state.pool.set_aside, Maintenance(table).message),
        lambda table: partial(state.sources.static.apply, table.workers),
        lambda table: partial(state.admission.set_limits, request_limits(table)),
    )


def make_fleet(state: RouterState, reports: Reports) -> Fleet:
    """Return what a reload asks all processes."""
    static, routes = state.sources.static, state.routes

    async def orphans(table: RoutingTable) -> Sequence[str]:
        used = await reports.names_in_use()
        changes = WorkerChanges(static.left_out(table.workers), added=static.adds(table.workers))
        return find_orphans(used, routes.now, routes.next, state.pool, changes)

    return Fleet(orphans, reports.live_revisions)
