"""Responses of /api/embed and /api/embeddings (R099, R026)."""

from __future__ import annotations

from collections.abc import Sequence

from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.ollama.embed import EmbedRequest
from vllama_pool.router.protocol.operation import STEP, Clock, StreamFailure, Timing, Usage
from vllama_pool.router.protocol.vllm import api, vectors

INVALID = "the worker's embeddings are invalid: "


class EmbedTranslator:
    cut_off = False

    def __init__(self, request: EmbedRequest, timing: Timing, clock: Clock) -> None:
        self._request = request
        self._timing = timing
        self._clock = clock
        self._body: list[bytes] = []
        self.done = False
        self.failure: StreamFailure | None = None
        self.usage = Usage()

    @property
    def ready(self) -> bool:
        return self.done

    @property
    def begun(self) -> bool:
        return bool(self._body) or self.done

    @property
    def progress(self) -> int:
        return sum(map(len, self._body)) // STEP

    def feed(self, data: bytes) -> bytes:
        self._body.append(data)
        return b""

    def finish(self) -> bytes:
        if self.done:
            return b""
        try:
            answer = self._translate(api.decode_embeddings(b"".join(self._body)))
        except vectors.NotFinite as error:
            self.failure = StreamFailure(400, error.text)
        except ValueError as error:  # also msgspec's and base64's errors
            self.failure = StreamFailure(502, f"{INVALID}{error}")
        else:
            self.done = True
            return answer
        return self.fail(self.failure.text)

    def fail(self, text: str) -> bytes:
        return encode({"error": text})

    def _translate(self, answer: api.VllmEmbeddingResponse) -> bytes:
        request = self._request
        items = sorted(answer.data, key=lambda item: item.index)
        if len(items) != len(request.texts):
            raise ValueError(f"{len(items)} for {len(request.texts)} texts")
        self.usage = Usage(answer.usage.prompt_tokens)
        if request.plain:
            return b'{"embedding":%b}' % vectors.encode(vectors.decode(items[0].embedding))
        parts = [b'{"model":%b,"embeddings":[' % encode(request.model)]
        for item in items:
            parts += (self._vector(item.embedding), b",")
        parts[-1] = b'],"total_duration":%d,"load_duration":%d%b}' % (
            max(1, self._clock.monotonic_ns() - self._timing.arrived),
            max(1, self._timing.sent - self._timing.arrived),
            b',"prompt_eval_count":%d' % self.usage.prompt_tokens if self.usage.prompt_tokens else b"",
        )
        return b"".join(parts)

    def _vector(self, embedding: str | Sequence[float]) -> bytes:
        return vectors.encode(vectors.normalised(vectors.decode(embedding), self._request.dimensions))
