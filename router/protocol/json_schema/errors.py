"""Refusal of a JSON schema, in the words of llama.cpp, which Ollama passes on."""

from __future__ import annotations

import json
from typing import Any

from vllama_pool.router.errors import BadRequest

SHOWN = 200
"""Characters of a schema in an error."""


def invalid(text: str) -> BadRequest:
    return BadRequest("JSON schema conversion failed:\n" + text)


def unrecognized(schema: Any) -> BadRequest:
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return invalid("Unrecognized schema: " + (text if len(text) <= SHOWN else text[:SHOWN] + "…"))


def unsatisfiable() -> BadRequest:
    return invalid("no value satisfies the schema; check its bounds, enums and required properties")


def too_large(limit: str) -> BadRequest:
    return invalid(f"the schema is too large: at most {limit} are supported; simplify it")


def unreadable() -> BadRequest:
    return invalid("the schema nests too deeply or holds a number beyond the range of a float; simplify it")
