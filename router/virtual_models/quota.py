"""How many virtual models there may be, and how large. Pure."""

from __future__ import annotations

from vllama_pool.router.errors import ClientError, TooLarge
from vllama_pool.router.protocol.ollama.create import TOO_MUCH
from vllama_pool.workers.registry.signature import MAX_ENVELOPE

MOST_MODELS = 1024
"""A list of so many takes some forty milliseconds, in which no stream goes on."""
MOST_BYTES = 16 << 20
"""Of all envelopes in the registry: the embedded one has 64 MiB for everything."""


def check_quota(*, size: int, others: int, count: int) -> None:
    """Whether a model may be put beside the others. `size` and `others` are bytes of envelopes, `count` is how many
    models there are then. Raises TooLarge, and ClientError 507."""
    if size > MAX_ENVELOPE:
        raise TooLarge(TOO_MUCH)
    if count > MOST_MODELS:
        raise ClientError(f"there are {MOST_MODELS} models made here already; delete some of them", status=507)
    if others + size > MOST_BYTES:
        raise ClientError(
            f"the models made here fill the {MOST_BYTES >> 20} MiB that there are for them; delete some of them",
            status=507,
        )
