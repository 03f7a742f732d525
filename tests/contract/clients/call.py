"""A type that an answer is parsed as: a call of the tool of tests/support/vllm/weather_tool.py.

The smallest model has learned to write one, and every value is one of a few words.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Place(BaseModel):
    city: Literal["Paris", "Rome"]
    unit: Literal["celsius", "kelvin"]


class Call(BaseModel):
    name: Literal["get_weather", "get_time"]
    arguments: Place


class get_weather(BaseModel):  # noqa: N801  a type's name is that of its tool
    """Get the weather"""

    city: str
    unit: str
