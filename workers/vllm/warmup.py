"""Send the first requests to a fresh server: vLLM compiles for about ten seconds on the first one and with logprobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

TIMEOUT = 300.0
"""Seconds per request."""
_HELLO = "Say hello."


class WarmUpFailed(Exception):
    """A first request failed although vLLM reports that it is ready."""


async def warm_up(
    client: httpx.AsyncClient,
    url: str,
    model: str,
    tasks: Sequence[str],
    key: str | None = None,
    *,
    timeout: float = TIMEOUT,
) -> bool | None:
    """Send one request of each kind. Returns True if chats are templated, None if unknown.

    4xx is accepted, because some models take no plain text. Raises WarmUpFailed.
    """
    templated: bool | None = None
    chat = {"messages": [{"role": "user", "content": _HELLO}], "temperature": 0, "max_tokens": 2}
    text = {"prompt": _HELLO, "temperature": 0, "max_tokens": 2}
    if "completion" in tasks:
        status, answer = await _post(client, url + "/v1/chat/completions", chat | {"model": model}, key, timeout)
        if status == 200:
            templated = True
            more = chat | {"logprobs": True, "top_logprobs": 1}
            await _post(client, url + "/v1/chat/completions", more | {"model": model}, key, timeout)
        elif status == 400 and "chat template" in answer:
            templated = False
            await _post(client, url + "/v1/completions", text | {"model": model, "logprobs": 1}, key, timeout)
    if "embedding" in tasks:
        await _post(client, url + "/v1/embeddings", {"model": model, "input": _HELLO}, key, timeout)
    return templated


async def _post(
    client: httpx.AsyncClient, address: str, body: dict[str, Any], key: str | None, timeout: float
) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        response = await client.post(address, json=body, headers=headers, timeout=timeout)
    except httpx.HTTPError as error:
        raise WarmUpFailed(f"the first request failed: {error or type(error).__name__}") from error
    if response.status_code >= 500:
        raise WarmUpFailed(f"the first request failed: HTTP {response.status_code} {response.text[:200]}")
    return response.status_code, response.text
