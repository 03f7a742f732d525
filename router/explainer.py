"""Answers questions for the route of a request that is not sent: of `/admin/explain`, and of a routing file alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.operation import Clock, Operation
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.routing.explain import Explanation, Subject, explain, known_names
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.routing.rights import Rights

USER = b"x-user-id"
"""A header that names the end user of a request whose body does not."""


class ModelQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /admin/explain`, or the query of a GET."""

    model: str = ""
    """Left out: the body's."""
    operation: str = "chat"
    """The protocol of `body`."""
    key: str = ""
    """The name of an API key."""
    user: str = ""
    client: str = ""
    """The client's address."""
    headers: dict[str, str] = {}
    prompt_tokens: int = 0
    """0: estimated from the body."""
    body: msgspec.Raw = msgspec.Raw()
    """The request as a client would send it."""


@dataclass(frozen=True, slots=True)
class ModelExplainer:
    routes: Callable[[], ModelRoutes]
    pool: Pool
    clock: Clock
    rng: random.Random
    """The router's."""
    operations: Mapping[str, Operation[Any]]
    """By name."""
    rights: Callable[[str], Rights | None]
    """Of an API key, by its name. Raises KeyError."""
    waiting: Callable[[], Iterable[tuple[str, int, bool]]] = tuple
    """Models and the numbers of requests that wait for them in this process."""

    def explain(self, question: ModelQuestion) -> Explanation:
        """Raises ClientError for an unusable question."""
        return self.explain_read(question, *self.read(question))

    def explain_read(self, question: ModelQuestion, name: str, request: Any) -> Explanation:
        """`name` and `request`: as `read` returns them."""
        asker = Asker(request, _headers(question), key=question.key, client=question.client)
        subject = Subject(
            name, asker, lambda resolution: _demand(question, resolution, request, asker), self._rights(question.key)
        )
        explanation = explain(self.routes(), self.pool, subject, self.clock.monotonic_ns() / 1e9, self.rng)
        model = explanation.rule.entry if explanation.rule is not None else ""
        waiting = next((count for name, count, _ in self.waiting() if name == model), 0)
        return msgspec.structs.replace(explanation, waiting=waiting) if waiting else explanation

    def known_names(self, question: ModelQuestion) -> list[str]:
        """Return the names that the question's key may use."""
        return known_names(self.routes(), self.pool, self._rights(question.key))

    def read(self, question: ModelQuestion) -> tuple[str, Any]:
        """Return the name, and the decoded request or None. Raises ClientError."""
        request = self._request(question)
        name = question.model or (request.model if request is not None else "")
        if not name:
            raise BadRequest("no model is named; add 'model', or 'model' in the body")
        return name, request

    def _request(self, question: ModelQuestion) -> Any:
        body = bytes(question.body)
        if not body or body == b"null":
            return None
        operation = self.operations.get(question.operation)
        if operation is None:
            known = ", ".join(self.operations)
            raise BadRequest(f"'{question.operation[:40]}' is not an operation; write one of {known}")
        return operation.decode(body)

    def _rights(self, key: str) -> Rights | None:
        try:
            return self.rights(key) if key else None
        except KeyError:
            raise BadRequest(f"no API key has the name '{key[:80]}'; correct it, or leave it out") from None


def decode_question(body: bytes) -> ModelQuestion:
    """Raises BadRequest."""
    try:
        return msgspec.json.decode(body, type=ModelQuestion)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"not a question: {error}; correct it") from None


def _headers(question: ModelQuestion) -> Mapping[bytes, bytes]:
    headers = {
        name.lower().encode("latin-1", "replace"): value.encode("latin-1", "replace")
        for name, value in question.headers.items()
    }
    return {**headers, USER: question.user.encode("latin-1", "replace")} if question.user else headers


def _demand(question: ModelQuestion, resolution: Resolution, request: Any, asker: Asker) -> Demand:
    demand, tokens = resolution.demand(request, asker), question.prompt_tokens
    return replace(demand, at_least=tokens, at_most=tokens) if tokens > 0 else demand
