"""POST /api/pull: succeeds at once for models of the pool, and fails for others (R103-R106)."""

from __future__ import annotations

from typing import Any

from vllama_pool.config.names import InvalidName, parse
from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.ollama.gojson import BodyDecoder
from vllama_pool.router.protocol.ollama.request_base import RegistryRequest

NOT_FOUND = "pull model manifest: file does not exist"
"""The stock CLI compares this text (R105)."""
SUCCESS = encode({"status": "success"})


class PullRequest(RegistryRequest, frozen=True):
    pass


PULL = BodyDecoder(PullRequest)
decode_pull = PULL.decode


def check_name(name: str) -> None:
    """Raises BadRequest (R106, R146-R149)."""
    try:
        parse(name)
    except InvalidName as error:
        raise BadRequest(error.text) from None


def success(digest: str, size: int) -> list[bytes]:
    """Progress lines. `size`: bytes (R103)."""
    layer: dict[str, Any] = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}"}
    if size:
        layer |= {"total": size, "completed": size}
    before = [{"status": "pulling manifest"}, layer]
    after = [{"status": status} for status in ("verifying sha256 digest", "writing manifest", "success")]
    return [encode(line) for line in (*before, *after)]


def failure() -> list[bytes]:
    return [encode({"status": "pulling manifest"}), encode({"error": NOT_FOUND})]
