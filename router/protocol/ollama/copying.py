"""POST /api/copy and DELETE /api/delete: their requests and the words for what is wrong (2.9, 2.10, R146-R149)."""

from __future__ import annotations

import msgspec

from vllama_pool.config.names import ConflictingSource, InvalidName, parse
from vllama_pool.router.errors import BadRequest, ClientError, ModelNotFound
from vllama_pool.router.protocol.ollama import gojson
from vllama_pool.router.protocol.ollama.gojson import STRING, struct


class CopyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str = ""
    destination: str = ""


class DeleteRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str = ""
    name: str = ""

    @property
    def wanted(self) -> str:
        """The stock CLI sends an empty `model` and the name in `name` (trap 12)."""
        return self.model or self.name


COPY = struct("api.CopyRequest", source=STRING, destination=STRING)
DELETE = struct("api.DeleteRequest", model=STRING, name=STRING)
_copy_decoder = msgspec.json.Decoder(CopyRequest)
_delete_decoder = msgspec.json.Decoder(DeleteRequest)


def decode_copy(body: bytes) -> CopyRequest:
    """Raises BadRequest in Ollama's words."""
    return gojson.decode(body, _copy_decoder, COPY)


def decode_delete(body: bytes) -> DeleteRequest:
    """Raises BadRequest in Ollama's words, also for a missing model (R146)."""
    request = gojson.decode(body, _delete_decoder, DELETE)
    if not request.wanted.strip():
        raise BadRequest("model is required")
    return request


def _quoted(name: str) -> str:
    return msgspec.json.encode(name).decode()


def bad_name(field: str, name: str) -> BadRequest:
    """400 for what is no name; `field` is "source", "destination" or "name" (R147)."""
    return BadRequest(f"{field} {_quoted(name)} is invalid")


def no_source(name: str) -> ModelNotFound:
    """R148."""
    return ModelNotFound(f"model {_quoted(name)} not found")


def no_such_model(name: str) -> ClientError:
    """What delete says of a name that nobody knows (R147-R149)."""
    try:
        parse(name)
    except ConflictingSource as error:
        return BadRequest(error.text)
    except InvalidName:
        return bad_name("name", name)
    return ModelNotFound(f"model '{name}' not found")
