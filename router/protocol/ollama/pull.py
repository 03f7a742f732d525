"""POST /api/pull: nothing is ever fetched. A model of the pool is there already, any other is nowhere (R103-R106)."""

from __future__ import annotations

from typing import Any

import msgspec

from vllama_pool.config.names import InvalidName, parse
from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.ollama import gojson
from vllama_pool.router.protocol.ollama.gojson import BOOL, STRING, struct

NOWHERE = "pull model manifest: file does not exist"
"""The CLI looks for exactly this (R105)."""
SUCCESS = encode({"status": "success"})


class PullRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str = ""
    name: str = ""
    insecure: bool = False
    username: str = ""
    password: str = ""
    stream: bool = True

    @property
    def wanted(self) -> str:
        """The stock CLI sends an empty `model` and the name in `name` (trap 12)."""
        return self.model or self.name


PULL = struct(
    "api.PullRequest", model=STRING, name=STRING, insecure=BOOL, username=STRING, password=STRING, stream=BOOL
)
_decoder = msgspec.json.Decoder(PullRequest)


def decode_pull(body: bytes) -> PullRequest:
    """Raises BadRequest in Ollama's words."""
    return gojson.decode(body, _decoder, PULL)


def check_name(name: str) -> None:
    """For a name that is not in the pool. Raises BadRequest (R106, R146-R149)."""
    try:
        parse(name)
    except InvalidName as error:
        raise BadRequest(error.text) from None


def success(digest: str, size: int) -> list[bytes]:
    """The lines of a stream for a model that is there, given its digest and bytes (R103)."""
    layer: dict[str, Any] = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}"}
    if size:
        layer |= {"total": size, "completed": size}
    before = [{"status": "pulling manifest"}, layer]
    after = [{"status": status} for status in ("verifying sha256 digest", "writing manifest", "success")]
    return [encode(line) for line in (*before, *after)]


def failure() -> list[bytes]:
    """The lines of a stream for a model that is nowhere (R105)."""
    return [encode({"status": "pulling manifest"}), encode({"error": NOWHERE})]
