"""Signatures of the virtual models in the registry."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from vllama_pool.router.log_once import LogOnce
from vllama_pool.workers.registry.signature import RecordRefused
from vllama_pool.workers.registry.virtual_model import VirtualModel, sign_model, verify_model

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SignaturePolicy:
    """Rules for accepting registry entries, including workers' records."""

    fleet: str
    secret: bytes | None
    allow_unsigned: bool
    """Only this user can write to the registry."""


class ModelSigner:
    """Signs and verifies entries. Logs each refusal once."""

    def __init__(self, policy: SignaturePolicy) -> None:
        self._policy = policy
        self._refusals = LogOnce(_log, "virtual model %r in the registry is ignored: %s")

    def sign(self, key: str, model: VirtualModel) -> bytes:
        """Return the envelope."""
        return sign_model(model, key, fleet=self._policy.fleet, secret=self._policy.secret)

    def verify(self, key: str, envelope: bytes) -> VirtualModel | None:
        """Return None for a refused envelope."""
        policy = self._policy
        try:
            return verify_model(
                envelope, key, fleet=policy.fleet, secret=policy.secret, allow_unsigned=policy.allow_unsigned
            )
        except RecordRefused as error:
            self._refusals.warn(key, str(error))
            return None
