"""Schemas as pydantic and zod write them, and a check of the answers that a model gives under them."""

from __future__ import annotations

import asyncio
import datetime
import enum
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import jsonschema_rs
from pydantic import BaseModel, Field
from pydantic_core import from_json

ZOD = Path(__file__).resolve().parents[2] / "data" / "zod-schemas.json"
"""By expression, what `z.toJSONSchema` of zod 4.6.7 returns for it."""
TOKENS = 64
UNKNOWN_TO_GRAMMARS = ("uniqueItems", "multipleOf")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Person(BaseModel):
    name: str
    age: int


class Pet(Person):
    colours: set[Colour] = Field(max_length=2)
    nickname: str | None = None
    owner: Person | None = None


class Measured(BaseModel):
    share: float = Field(ge=0, le=1)
    step: int = Field(multiple_of=5, gt=0, lt=100)
    far: float = Field(ge=-3.4e38, le=3.4e38)
    count: int = Field(ge=-(2**63), lt=2**63)


class Tree(BaseModel):
    label: Annotated[str, Field(pattern="^[a-z]{1,8}$")]
    branches: list[Tree] = Field(max_length=1)


class Circle(BaseModel):
    kind: Literal["circle"]
    radius: int


class Square(BaseModel):
    kind: Literal["square"]
    side: int


class Drawing(BaseModel):
    shape: Circle | Square = Field(discriminator="kind")
    size: tuple[int, int]
    made: datetime.date
    id: uuid.UUID
    flags: dict[str, bool]


MODELS: tuple[type[BaseModel], ...] = (Person, Pet, Measured, Tree, Drawing)


@dataclass(frozen=True)
class Answer:
    name: str
    schema: dict[str, Any]
    done_reason: str
    text: str

    def check(self) -> None:
        """Check its keys, and the whole if no limit cut it off."""
        value = from_json(self.text, allow_partial=True)
        declared = set(_declared(self.schema))
        assert set(_keys(value, frozenset({"flags", "scores"}))) <= declared, self
        if self.done_reason == "stop":
            jsonschema_rs.validate(_known_to_grammars(self.schema), json.loads(self.text))
        else:
            assert self.done_reason == "length", self


async def answers(http: httpx.AsyncClient, model: str) -> list[Answer]:
    """Ask a model once under each schema."""
    schemas = {one.__name__: one.model_json_schema() for one in MODELS} | json.loads(ZOD.read_text())
    return await asyncio.gather(*(_answer(http, model, name, schema) for name, schema in schemas.items()))


async def _answer(http: httpx.AsyncClient, model: str, name: str, schema: dict[str, Any]) -> Answer:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Describe Anna, who is 22, and her dog, in JSON."}],
        "format": schema,
        "stream": False,
        "options": {"temperature": 0, "num_predict": TOKENS},
    }
    response = await http.post("/api/chat", json=body)
    assert response.status_code == 200, f"{name}: {response.text}"
    answer = response.json()
    return Answer(name, schema, answer["done_reason"], answer["message"]["content"])


def _declared(schema: Any) -> Iterator[str]:
    """Yield the names of all properties of a schema."""
    if isinstance(schema, dict):
        properties = schema.get("properties", {})
        yield from properties
        for part in (*properties.values(), *(value for key, value in schema.items() if key != "properties")):
            yield from _declared(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _declared(part)


def _keys(value: Any, maps: frozenset[str]) -> Iterator[str]:
    """Yield the keys of a value. `maps` names the properties whose keys are free."""
    if isinstance(value, dict):
        yield from value
        for key, part in value.items():
            if key not in maps:
                yield from _keys(part, maps)
    elif isinstance(value, list):
        for part in value:
            yield from _keys(part, maps)


def _known_to_grammars(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_known_to_grammars(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _known_to_grammars(part) for key, part in schema.items() if key not in UNKNOWN_TO_GRAMMARS}
