"""The API keys of VLLAMA_API_KEYS and of the routing file, as grants."""

from __future__ import annotations

from vllama_pool.config.routing.key_checks import check_keys
from vllama_pool.config.routing.schema import Key, RoutingFile, Team
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.config.settings import RouterSettings
from vllama_pool.config.startup_checks import needs_keys
from vllama_pool.router.admission.grant import Grant
from vllama_pool.router.routing.rights import NameList, NamesOf, Rights
from vllama_pool.router.telemetry.usage import UsageByKey

_NO_TEAM = Team()


class Keyring:
    """Makes the grants of each revision of the routing file. What a key has used survives."""

    def __init__(self, settings: RouterSettings, usage: UsageByKey) -> None:
        """Keys of VLLAMA_API_KEYS may use all models."""
        self._keys = settings.api_keys
        self._allow_anonymous = settings.allow_anonymous
        self._required = needs_keys(settings)
        self._usage = usage

    def check(self, table: RoutingTable) -> None:
        """Raise RoutingError for keys that VLLAMA_API_KEYS has, too, and for a reload that would open the router to
        anonymous requests: it may come from a file that is being written."""
        check_keys(table, self._keys, required=self._required)

    def grants(self, file: RoutingFile, names_of: NamesOf) -> dict[bytes, Grant]:
        """Return the grants by the SHA-256 of the key. `names_of`: of this revision."""
        teams = file.teams or {}
        rights = _RightsByModels(names_of)
        grants = {key.digest: Grant(key.name, usage=self._usage.of("", key.name)) for key in self._keys}
        for name, key in (file.keys or {}).items():
            team = teams.get(key.team or "", _NO_TEAM)
            grants[bytes.fromhex(key.sha256)] = self._grant(name, key, rights.of(key.models, team.models))
        self._required = self._required or bool(grants and not self._allow_anonymous)
        return grants

    def _grant(self, name: str, key: Key, rights: Rights | None) -> Grant:
        team = key.team or ""
        return Grant(name, team, rights=rights, usage=self._usage.of(team, name))


class _RightsByModels:
    """Keys with the same models share their rights, and what these remember."""

    def __init__(self, names_of: NamesOf) -> None:
        self._names_of = names_of
        self._made: dict[tuple[tuple[str, ...], ...], Rights] = {}

    def of(self, *lists: tuple[str, ...] | None) -> Rights | None:
        """Return None for all models."""
        limiting = tuple(each for each in lists if each is not None)
        if not limiting:
            return None
        rights = self._made.get(limiting)
        if rights is None:
            rights = self._made[limiting] = Rights(map(NameList, limiting), self._names_of)
        return rights
