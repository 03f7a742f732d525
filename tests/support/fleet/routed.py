"""Waits until routers use their workers, which they learn from the registry after `vllama serve` says "ready"."""

from __future__ import annotations

import re

import httpx

from tests.support.until import until

TIMEOUT = 30.0


def wait_until_routed(url: str, workers: int) -> None:
    """Wait until this many workers are up. A worker counts once for each process of `vllama serve`."""

    def routed() -> bool:
        page = httpx.get(f"{url}/metrics", trust_env=False, timeout=TIMEOUT).text
        return len(re.findall(r"^vllama_worker_up\{.*\} 1", page, re.MULTILINE)) == workers

    until(routed, TIMEOUT, f"{workers} workers are up in {url}")
