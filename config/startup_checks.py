"""Checks of settings with which a router must not start."""

from __future__ import annotations

from vllama_pool.config.listen import is_loopback
from vllama_pool.config.settings import RegistrySettings, RouterSettings


def startup_problem(settings: RouterSettings, *, file_has_keys: bool = False) -> str | None:
    """Return the first problem, or None if the router may start. `file_has_keys`: the routing file."""
    return listen_problem(settings, file_has_keys=file_has_keys) or registry_problem(settings.registry)


def needs_keys(settings: RouterSettings) -> bool:
    """True for a public address, unless anonymous requests are allowed."""
    return not is_loopback(settings.host) and not settings.allow_anonymous


def listen_problem(settings: RouterSettings, *, file_has_keys: bool = False) -> str | None:
    """A public address needs API keys."""
    if needs_keys(settings) and not settings.api_keys and not file_has_keys:
        return (
            f"listening on {settings.host} lets anyone who can reach it use the models: set VLLAMA_API_KEYS, or add "
            "`keys` to the routing file (vllama key new NAME makes a key and its line), or pass --allow-anonymous if "
            "the network is trusted, or listen on 127.0.0.1"
        )
    return None


def registry_problem(registry: RegistrySettings) -> str | None:
    """A shared registry needs a fleet secret."""
    if registry.embedded or registry.fleet_secret is not None:
        return None
    return (
        "with a Redis that others can reach, workers sign their records: set VLLAMA_FLEET_SECRET to the same value "
        "for routers and workers (make one with: openssl rand -hex 32)"
    )
