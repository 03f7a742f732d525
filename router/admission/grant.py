"""The permissions of an API key, and the counters of its requests."""

from __future__ import annotations

from vllama_pool.router.admission.output_cap import OutputCap
from vllama_pool.router.admission.queue import AdmissionQueue
from vllama_pool.router.admission.tenant import Tenant
from vllama_pool.router.routing.rights import NameList, Rights
from vllama_pool.router.telemetry.usage import Usage

GRANT = "vllama.grant"
"""Key of an ASGI scope. Absent for anonymous requests."""


class Grant:
    """One key's, shared by its requests."""

    __slots__ = ("caps", "name", "output", "rights", "team", "tenant", "usage")

    def __init__(
        self,
        name: str = "",
        team: str = "",
        *,
        rights: Rights | None = None,
        caps: tuple[AdmissionQueue, ...] = (),
        output: OutputCap | None = None,
        tenant: Tenant | None = None,
        usage: Usage | None = None,
    ) -> None:
        """`rights` None: all models. `caps`: the team's, then the key's. `tenant`: the team or the key; None for the
        client's address. `usage`: where its requests are counted."""
        self.name = name
        self.team = team
        self.rights = rights
        self.caps = caps
        self.output = output
        self.tenant = tenant
        self.usage = usage if usage is not None else Usage()

    def __repr__(self) -> str:
        return f"<Grant of {self.name!r}>"


NAMELESS = Grant(rights=Rights((NameList(()),), lambda name: ()))
"""Of a client without a key that may know no model's name."""
