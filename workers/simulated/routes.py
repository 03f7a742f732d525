"""Authorization, dispatch, and routes without generation."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec

from vllama_pool.workers.simulated import embedding, errors, faults, prompts, scoring, template, vocabulary
from vllama_pool.workers.simulated.engine_loop import EngineLoop
from vllama_pool.workers.simulated.errors import ApiError, HttpResponse
from vllama_pool.workers.simulated.http_server import Exchange, Request
from vllama_pool.workers.simulated.inference import Inference
from vllama_pool.workers.simulated.messages_requests import as_chat, parse_count
from vllama_pool.workers.simulated.metrics import CONTENT_TYPE, SimulatedMetrics
from vllama_pool.workers.simulated.options import VERSION, Options
from vllama_pool.workers.simulated.requests import parse_detokenize, parse_embedding, parse_tokenize
from vllama_pool.workers.simulated.responses_requests import not_found
from vllama_pool.workers.simulated.shapes import TokenizeChat
from vllama_pool.workers.simulated.sleep import SleepRoutes

GUARDED = ("/v1", "/v2", "/inference", "/cohere")
"""Paths that need an API key."""

SHAPES = {"/v1/messages": errors.anthropic, "/v1/messages/count_tokens": errors.anthropic}
"""Error bodies of routes whose errors are not OpenAI's."""

STORED = "/v1/responses/"
"""Prefix of stored responses, of which there are none."""

Handler = Callable[[Request], HttpResponse]


class Routes:
    def __init__(
        self,
        options: Options,
        inference: Inference,
        engine_loop: EngineLoop,
        metrics: SimulatedMetrics,
        plan: faults.FaultPlan,
        *,
        die: Callable[[], None],
        set_faults: Callable[[list[faults.Fault]], None],
        stats: Callable[[], dict[str, Any]],
    ) -> None:
        self._options = options
        self._inference = inference
        self._engine_loop = engine_loop
        self._metrics = metrics
        self._faults = plan
        self._die = die
        self._set_faults = set_faults
        self._stats = stats
        self._sleep = SleepRoutes(engine_loop, inference.abort_all)
        self._deferred: dict[str, Callable[[Request, Exchange, faults.RequestFault | None], None]] = {}
        self._plain: dict[tuple[str, str], Handler] = {
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health,
            ("GET", "/version"): lambda _: _json({"version": VERSION}),
            ("GET", "/v1/models"): self._models,
            ("GET", "/metrics"): self._metrics_page,
            ("GET", "/load"): self._load,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("GET", "/simulated"): self._about,
            ("GET", "/simulated/stats"): lambda _: _json(self._stats()),
            ("GET", "/simulated/faults"): self._get_faults,
            ("POST", "/simulated/faults"): self._post_faults,
            ("DELETE", "/simulated/faults"): self._delete_faults,
        }
        if options.embedding:
            self._plain["POST", "/v1/embeddings"] = self._embeddings
            for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
                self._plain["POST", path] = self._scoring(scoring.rerank)
            for path in ("/score", "/v1/score"):
                self._plain["POST", path] = self._scoring(scoring.score)
        else:
            self._deferred["/v1/chat/completions"] = inference.chat
            self._deferred["/v1/completions"] = inference.completion
            self._deferred["/v1/messages"] = inference.messages
            self._deferred["/v1/responses"] = inference.responses
            self._plain["POST", "/v1/messages/count_tokens"] = self._count_tokens
        if options.transcription:
            self._deferred["/v1/audio/transcriptions"] = inference.transcription
        if options.dev_mode:
            self._deferred["/sleep"] = self._sleep.sleep
            self._plain["POST", "/wake_up"] = self._sleep.wake_up
            self._plain["GET", "/is_sleeping"] = self._sleep.is_sleeping
        self._allowed: dict[str, list[str]] = {path: ["POST"] for path in self._deferred}
        for method, path in self._plain:
            self._allowed.setdefault(path, []).append(method)

    def handle(self, request: Request, exchange: Exchange) -> None:
        fault = self._faults.next_for(request.path, request.body)
        if fault is not None and self._preempt(fault, request, exchange):
            return
        try:
            respond = self._deferred.get(request.path) if request.method == "POST" else None
            if not self._authorized(request):
                answer = errors.UNAUTHORIZED
            elif respond is not None:
                respond(request, exchange, fault)
                self._metrics.answered(request.path, request.method, 200)
                return
            else:
                answer = self._answer(request)
        except ApiError as error:
            answer = error.response
        if request.path in self._allowed:
            self._metrics.answered(request.path, request.method, answer.status)
        if isinstance(fault, faults.Split):
            exchange.split = True
        exchange.respond(answer)

    def _preempt(self, fault: faults.RequestFault, request: Request, exchange: Exchange) -> bool:
        """Inject a fault that does not depend on the request. Returns True if it ends the request."""
        if isinstance(fault, faults.Hang):
            return True
        if isinstance(fault, faults.Die) and fault.after_tokens == 0:
            self._die()
            return True
        if isinstance(fault, faults.Cut) and fault.after_tokens == 0 and request.path not in self._deferred:
            exchange.close(reset=fault.reset)
            return True
        if isinstance(fault, faults.Body):
            exchange.respond(HttpResponse(fault.status, fault.body.encode(), fault.content_type))
            return True
        if isinstance(fault, faults.Status):
            error = errors.scripted(fault.status)
            error.shape = SHAPES.get(request.path, errors.openai)
            answer = error.response
            after = fault.retry_after
            headers = (("retry-after", f"{after:g}"),) if after is not None else ()
            exchange.respond(HttpResponse(answer.status, answer.body, headers=headers))
            return True
        return False

    def _authorized(self, request: Request) -> bool:
        keys = self._options.api_keys
        if not keys or not request.path.startswith(GUARDED):
            return True
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and token in keys

    def _answer(self, request: Request) -> HttpResponse:
        handler = self._plain.get((request.method, request.path))
        if handler is not None:
            return handler(request)
        if request.path.startswith(STORED) and not self._options.embedding:
            return _stored_response(request)
        allowed = self._allowed.get(request.path)
        return errors.method_not_allowed(", ".join(allowed)) if allowed else errors.NOT_FOUND

    # --- status ---

    def _health(self, request: Request) -> HttpResponse:
        return HttpResponse(503 if self._faults.active(faults.Dead) else 200, b"")

    def _models(self, request: Request) -> HttpResponse:
        now = int(time.time())
        permission = {
            "id": f"modelperm-{secrets.token_hex(8)}",
            "object": "model_permission",
            "created": now,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        models = [
            {
                "id": name,
                "object": "model",
                "created": now,
                "owned_by": "simulated",
                "root": self._options.root or self._options.model,
                "parent": None,
                "max_model_len": self._options.max_model_len,
                "permission": [permission],
            }
            for name in self._options.names
        ]
        return _json({"object": "list", "data": models})

    def _metrics_page(self, request: Request) -> HttpResponse:
        return HttpResponse(200, self._metrics.page(self._engine_loop.engine, self._sleep.state.gauge), CONTENT_TYPE)

    def _load(self, request: Request) -> HttpResponse:
        return _json({"server_load": len(self._inference.tasks) if self._options.load_tracking else 0})

    # --- tokens and vectors ---

    def _tokenize(self, request: Request) -> HttpResponse:
        body = parse_tokenize(request.body, request.headers.get("content-type", ""))
        prompts.check_model(body.model, self._options)
        text = prompts.rendered(body, self._options) if isinstance(body, TokenizeChat) else body.prompt
        tokens = vocabulary.encode(text)
        if self._options.embedding:
            tokens = embedding.add_special_tokens(tokens)
        strings = [vocabulary.decode([token]) for token in tokens] if body.return_token_strs else None
        return _json(
            {
                "count": len(tokens),
                "max_model_len": self._options.max_model_len,
                "tokens": tokens,
                "token_strs": strings,
            }
        )

    def _count_tokens(self, request: Request) -> HttpResponse:
        body = parse_count(request.body, request.headers.get("content-type", ""))
        with errors.shaped(errors.anthropic):
            chat = as_chat(body, one_system=template.refuses_later_systems(self._options.strict_template))
            prompts.check_model(chat.model, self._options)
            count = len(prompts.limited(prompts.rendered(chat, self._options), chat, self._options))
        return _json({"input_tokens": count, "context_management": {"original_input_tokens": count}})

    def _detokenize(self, request: Request) -> HttpResponse:
        body = parse_detokenize(request.body, request.headers.get("content-type", ""))
        prompts.check_model(body.model, self._options)
        if max(body.tokens, default=0) >= 2**32:
            raise ApiError("number too large to fit in target type")
        return _json({"prompt": vocabulary.decode(filter(vocabulary.is_known, body.tokens))})

    def _embeddings(self, request: Request) -> HttpResponse:
        body = parse_embedding(request.body, request.headers.get("content-type", ""))
        embedding.check(body, self._options)
        self._inference.check_available()
        return embedding.answer(body, self._options)

    def _scoring(self, answer: Callable[[bytes, str, Options], dict[str, Any]]) -> Handler:
        def handle(request: Request) -> HttpResponse:
            scored = answer(request.body, request.headers.get("content-type", ""), self._options)
            self._inference.check_available()
            return _json(scored)

        return handle

    # --- routes of the simulation ---

    def _about(self, request: Request) -> HttpResponse:
        return _json(
            {
                "simulated": True,
                "what": "A simulated vLLM worker: no model and no GPU. Its answers repeat the question and count.",
                "model": self._options.model,
                "slots": self._options.slots,
                "tokens_per_second": self._options.pace.tokens_per_second,
                "routes": sorted({*self._allowed}),
            }
        )

    def _get_faults(self, request: Request) -> HttpResponse:
        return _json({"what": "faults of a simulated worker", "faults": list(self._faults.faults)})

    def _post_faults(self, request: Request) -> HttpResponse:
        try:
            parsed = faults.parse(request.body)
        except ValueError as error:
            raise ApiError(f"not a fault: {error}") from error
        self._set_faults(parsed)
        return self._get_faults(request)

    def _delete_faults(self, request: Request) -> HttpResponse:
        self._set_faults([])
        return self._get_faults(request)


def _stored_response(request: Request) -> HttpResponse:
    response_id, _, action = request.path.removeprefix(STORED).partition("/")
    method = {"": "GET", "cancel": "POST"}.get(action)
    if method is None or not response_id:
        return errors.NOT_FOUND
    return not_found(response_id).response if request.method == method else errors.method_not_allowed(method)


def _json(value: Any) -> HttpResponse:
    return HttpResponse(200, msgspec.json.encode(value))
