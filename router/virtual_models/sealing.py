"""Which entries of the registry are believed, and how ours are made so that others believe them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from vllama_pool.workers.registry.signature import RecordRefused
from vllama_pool.workers.registry.virtual_model import VirtualModel, seal_model, unseal_model

_MOST_REFUSALS = 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SignaturePolicy:
    """Whose entries are believed, as for the workers' records."""

    fleet: str
    secret: bytes | None
    unsigned: bool
    """Nobody but this user can write to the registry."""


class Sealer:
    """Sealer and unseals entries, and names those that it refuses once."""

    def __init__(self, trust: SignaturePolicy) -> None:
        self._trust = trust
        self._refused: dict[str, str] = {}

    def seal(self, key: str, model: VirtualModel) -> bytes:
        """The envelope that goes into the registry under `key`."""
        return seal_model(model, key, fleet=self._trust.fleet, secret=self._trust.secret)

    def unseal(self, key: str, envelope: bytes) -> VirtualModel | None:
        """What was found under `key`; None for what is refused."""
        trust = self._trust
        try:
            return unseal_model(envelope, key, fleet=trust.fleet, secret=trust.secret, unsigned=trust.unsigned)
        except RecordRefused as error:
            self._name(key, str(error))
            return None

    def _name(self, key: str, why: str) -> None:
        if self._refused.get(key) == why:
            return
        if len(self._refused) >= _MOST_REFUSALS:
            self._refused.clear()
        self._refused[key] = why
        _log.warning("the virtual model %r in the registry is not used: %s", key[:200], why)
