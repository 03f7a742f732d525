"""The models of one address, from its latest full probes: what several servers behind it agree on. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from vllama_pool.workers.vllm.probe import ProbeResult, ServedModel

WINDOW = 8
"""Full probes."""


class ModelLists:
    def __init__(self) -> None:
        self._latest: deque[ProbeResult] = deque(maxlen=WINDOW)
        self._names: frozenset[str] = frozenset()
        """Names of the models that were returned last."""

    @property
    def alternate(self) -> bool:
        """True if base models or version came back after others were seen, so that several servers answer."""
        answers = [_signature(result) for result in self._latest]
        return any(
            answer in answers[:index] and answer != answers[index - 1]
            for index, answer in enumerate(answers)
            if index > 1
        )

    def clear(self) -> None:
        self._latest.clear()

    def add(self, result: ProbeResult) -> None:
        self._latest.append(result)

    def agreed(self, *, several: bool) -> ProbeResult:
        """Return the latest result; for several servers, with the models that all of them serve.

        If they have none in common, those returned before stay while they are seen.
        """
        newest = self._latest[-1]
        if several:
            newest = self._common()
        self._names = frozenset(model.name for model in newest.models)
        return newest

    def _common(self) -> ProbeResult:
        names = frozenset.intersection(*(_names(result) for result in self._latest))
        if not names:
            seen = frozenset.union(*(_names(result) for result in self._latest))
            names = (self._names & seen) or _names(self._latest[-1])
        source = next(result for result in reversed(self._latest) if names & _names(result))
        models = tuple(self._shortest(model) for model in source.models if model.name in names)
        versions = sorted({result.version for result in self._latest if result.version})
        return replace(source, models=models, version=", ".join(versions))

    def _shortest(self, model: ServedModel) -> ServedModel:
        """Return the model with the smallest context of all servers."""
        lengths = [one.max_model_len for result in self._latest for one in result.models if one.name == model.name]
        return replace(model, max_model_len=min(lengths))


def _names(result: ProbeResult) -> frozenset[str]:
    return frozenset(model.name for model in result.models)


def _signature(result: ProbeResult) -> tuple[object, ...]:
    """Without adapters, which are loaded and unloaded at run time."""
    return result.version, frozenset((model.name, model.max_model_len) for model in result.models if not model.parent)
