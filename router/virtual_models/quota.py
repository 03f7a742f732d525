"""Limits on the number and size of virtual models. Pure."""

from __future__ import annotations

from vllama_pool.router.errors import ClientError, TooLarge
from vllama_pool.router.protocol.ollama.create import TOO_MUCH
from vllama_pool.workers.registry.signature import MAX_ENVELOPE

MAX_MODELS = 1024
"""Listing them blocks the event loop for about 40 ms."""
MAX_BYTES = 16 << 20
"""Maximum bytes of all envelopes. The embedded registry has 64 MiB."""


def check_quota(*, size: int, others: int, count: int) -> None:
    """Raises TooLarge, and ClientError 507.

    `size`: bytes of the changed envelope. `others`: bytes of all others. `count`: models after the change.
    """
    if size > MAX_ENVELOPE:
        raise TooLarge(TOO_MUCH)
    if count > MAX_MODELS:
        raise ClientError(f"the limit of {MAX_MODELS} created models is reached; delete some of them", status=507)
    if others + size > MAX_BYTES:
        raise ClientError(
            f"created models already fill their limit of {MAX_BYTES >> 20} MiB; delete some of them",
            status=507,
        )
