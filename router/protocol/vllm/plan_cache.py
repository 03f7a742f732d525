"""Keeps what is made once per model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.workers.registry.record import ModelInfo

_MAX_PLANS: Final = 1024

PlanT = TypeVar("PlanT")


class PlanCache(Generic[PlanT]):
    """The plans of a process, made when they are first used. A plan must hold its model and defaults."""

    __slots__ = ("_make", "_plans")

    def __init__(self, make: Callable[[ModelInfo, Defaults], PlanT]) -> None:
        self._make = make
        self._plans: dict[tuple[int, int], PlanT] = {}
        """By the identities of the plan's own objects, whose contents take long to compare."""

    def __repr__(self) -> str:
        return f"<PlanCache of {len(self._plans)} models>"

    def of(self, info: ModelInfo, defaults: Defaults) -> PlanT:
        key = id(info), id(defaults)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._make(info, defaults)
        return plan
