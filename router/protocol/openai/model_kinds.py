"""Kinds of models that a route needs, and the errors for other models.

vLLM has only the routes of its model's kind. A model that may be of the right kind is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vllama_pool.router.errors import AttemptFailed, BadRequest, Refused
from vllama_pool.router.protocol.vllm.errors import WRONG_TASK
from vllama_pool.workers.registry.record import ModelInfo


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of model that a route needs."""

    task: str
    cure: str
    is_missing: Callable[[ModelInfo], bool]
    """True for a model that is known to be of another kind."""

    def require(self, model: str, info: ModelInfo) -> None:
        """Raises BadRequest."""
        if self.is_missing(info):
            raise BadRequest(self._text(model), param="model")

    def explain(self, failure: AttemptFailed, model: str) -> None:
        """Raises Refused if the worker lacks the route."""
        if failure.text == WRONG_TASK:
            raise Refused(self._text(model), status=400, param="model")

    def _text(self, model: str) -> str:
        return f'"{model}" does not support {self.task}: {self.cure}'


def _generates(info: ModelInfo) -> bool:
    return "completion" in info.capabilities and "embedding" not in info.capabilities


EMBEDDING: Final = Kind("embeddings", "use an embedding model", _generates)
RERANKING: Final = Kind("reranking", "use a reranker (a cross-encoder) or an embedding model", _generates)
SCORING: Final = Kind("scores", "use a cross-encoder or an embedding model", _generates)


def _is_deaf(info: ModelInfo) -> bool:
    """The files of a model that generates say whether it hears; a transcriber's capabilities are empty."""
    generates = "completion" in info.capabilities and bool(info.architecture)
    return "audio" not in info.capabilities and (generates or "embedding" in info.capabilities)


TRANSCRIPTION: Final = Kind("transcription", "use a speech-to-text model, such as Whisper", _is_deaf)
