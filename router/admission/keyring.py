"""The API keys of VLLAMA_API_KEYS and of the routing file, as grants."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_pool.config.routing.key_checks import check_keys
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.config.settings import RouterSettings
from vllama_pool.config.startup_checks import needs_keys
from vllama_pool.router.admission.cap import Cap
from vllama_pool.router.admission.grant import Grant
from vllama_pool.router.admission.output_cap import OutputCap
from vllama_pool.router.admission.share import share_of
from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.routing.rights import NamesOf, Rights, TableRights
from vllama_pool.router.telemetry.usage import UsageByKey

if TYPE_CHECKING:
    from vllama_pool.config.routing.schema import Caps

_Holder = tuple[str, str]
"""A kind, "key" or "team", and a name."""


@dataclass(frozen=True, slots=True)
class KeyTable:
    """The keys of one revision."""

    grants: Mapping[bytes, Grant]
    """By the SHA-256 of the key."""
    limits: Mapping[_Holder, int]
    """Requests in progress, of all router processes together."""
    weights: Mapping[_Holder, int]
    """Of tenants; 1 for others."""


class Keyring:
    """Makes the grants of each revision of the routing file. Counters are kept by name, and survive."""

    def __init__(
        self,
        settings: RouterSettings,
        usage: UsageByKey,
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`processes`: those that share the limits. `clock` returns monotonic seconds."""
        self._keys = settings.api_keys
        self._allow_anonymous = settings.allow_anonymous
        self._required = needs_keys(settings)
        self._usage = usage
        self._processes = processes
        self._clock = clock
        self._caps: dict[_Holder, Cap] = {}
        self._tenants: dict[_Holder, Tenant] = {}
        self._rights: dict[str, Rights | None] = {}

    def read(self, table: RoutingTable, names_of: NamesOf) -> KeyTable:
        """Return the keys of a table, which `use` makes the present one. `names_of`: of the same revision.

        Keys of VLLAMA_API_KEYS may use all models. Raises RoutingError for keys that VLLAMA_API_KEYS has, too, and for
        a reload that would open the router to anonymous requests: its file may be half-written.
        """
        check_keys(table, self._keys, required=self._required)
        keys, teams = table.entries.keys or {}, table.entries.teams or {}
        limits = {
            **{("team", name): limit for name, team in teams.items() if (limit := _concurrency(team.limits))},
            **{("key", name): limit for name, key in keys.items() if (limit := _concurrency(key.limits))},
        }
        weights = {
            **{("team", name): team.weight for name, team in teams.items()},
            **{("key", name): key.weight for name, key in keys.items()},
        }
        rights, outputs = TableRights(table.entries, names_of), _OutputCaps()
        grants = {
            key.digest: Grant(key.name, tenant=self._tenant("", key.name), usage=self._usage.of("", key.name))
            for key in self._keys
        }
        for name, key in keys.items():
            team = teams.get(key.team or "")
            holders = [("team", key.team or ""), ("key", name)]
            caps = tuple(self._cap(holder) for holder in holders if holder in limits)
            grants[bytes.fromhex(key.sha256)] = Grant(
                name,
                key.team or "",
                rights=rights.of_key(name),
                caps=caps,
                output=outputs.of(key.limits, team.limits if team is not None else None),
                tenant=self._tenant(key.team or "", name),
                usage=self._usage.of(key.team or "", name),
            )
        return KeyTable(grants, limits, weights)

    def use(self, keys: KeyTable) -> None:
        """Set the limits and weights of a table. Requests in progress go on."""
        for holder, cap in self._caps.items():
            limit = keys.limits.get(holder)
            cap.set_limit(limit, None if limit is None else share_of(limit, self._processes))
        for holder, tenant in self._tenants.items():
            tenant.weight = keys.weights.get(holder, 1)
        self._required = self._required or bool(keys.grants and not self._allow_anonymous)
        self._rights = {grant.name: grant.rights for grant in keys.grants.values()}

    def rights(self, name: str) -> Rights | None:
        """Return the rights of a present key, by its name; None for all models. Raises KeyError."""
        return self._rights[name]

    def _tenant(self, team: str, key: str) -> Tenant:
        holder = ("team", team) if team else ("key", key)
        return self._tenants.setdefault(holder, Tenant(*holder))

    def _cap(self, holder: _Holder) -> Cap:
        cap = self._caps.get(holder)
        if cap is None:
            kind, name = holder
            text = f"the API key '{name}'" if kind == "key" else f"the team '{name}'"
            cap = self._caps[holder] = Cap(text, self._clock)
        return cap


class _OutputCaps:
    """Keys with the same limit share what is made with it."""

    def __init__(self) -> None:
        self._made: dict[int, OutputCap] = {}

    def of(self, *limits: Caps | None) -> OutputCap | None:
        tokens = min((each.output for each in limits if each is not None and each.output), default=None)
        return None if tokens is None else self._made.setdefault(tokens, OutputCap(tokens))


def _concurrency(caps: Caps | None) -> int | None:
    return caps.concurrency if caps is not None else None
