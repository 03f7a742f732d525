"""POST /api/copy and DELETE /api/delete: requests and errors (R146-R149)."""

from __future__ import annotations

import msgspec

from vllama_pool.config.names import ConflictingSource, InvalidName, parse
from vllama_pool.router.errors import BadRequest, ClientError, ModelNotFound
from vllama_pool.router.protocol.ollama.gojson import BodyDecoder
from vllama_pool.router.protocol.ollama.request_base import Body, ModelRequest, require_model


class CopyRequest(Body, frozen=True):
    source: str = ""
    destination: str = ""


class DeleteRequest(ModelRequest, frozen=True):
    pass


COPY = BodyDecoder(CopyRequest)
DELETE = BodyDecoder(DeleteRequest)
decode_copy = COPY.decode


def decode_delete(body: bytes) -> DeleteRequest:
    request = DELETE.decode(body)
    require_model(request.requested)
    return request


def invalid_name(field: str, name: str) -> BadRequest:
    """`field`: "source", "destination" or "name" (R147)."""
    return BadRequest(f"{field} {_quoted(name)} is invalid")


def no_source(name: str) -> ModelNotFound:
    """Error of copy (R148)."""
    return ModelNotFound(f"model {_quoted(name)} not found")


def no_such_model(name: str) -> ClientError:
    """Error of delete (R147-R149)."""
    try:
        parse(name)
    except ConflictingSource as error:
        return BadRequest(error.text)
    except InvalidName:
        return invalid_name("name", name)
    return ModelNotFound(f"model '{name}' not found")


def _quoted(name: str) -> str:
    return msgspec.json.encode(name).decode()
