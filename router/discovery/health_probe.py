"""Probes registered workers whose beats are late, over HTTP."""

from __future__ import annotations

import httpx

from vllama_pool.router.balance.pool import Discovered
from vllama_pool.router.discovery.membership import ProbeAnswer
from vllama_pool.router.discovery.registry_loop import Probe
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.vllm import probe
from vllama_pool.workers.vllm.probe import Health

_ANSWERS = {
    Health.OK: ProbeAnswer.UP,
    Health.STARTING: ProbeAnswer.GONE,
    Health.DEAD: ProbeAnswer.GONE,
    Health.UNREACHABLE: ProbeAnswer.NONE,
}


def health_probe(client: httpx.AsyncClient, key: str | None) -> Probe:
    """Probe with GET /health, within the time limit of `client`."""

    async def run(found: Discovered) -> ProbeAnswer:
        endpoint = found.endpoint
        return _ANSWERS[await probe.check_health(client, _url(endpoint), key, endpoint.server_name)]

    return run


def _url(endpoint: Endpoint) -> str:
    scheme = "http" if endpoint.tls is None else "https"
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{scheme}://{host}:{endpoint.port}{endpoint.prefix}"
