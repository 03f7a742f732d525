"""The part of requests to vLLM that depends on the model only."""

from __future__ import annotations

from collections.abc import Sequence

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed
from vllama_pool.router.protocol.ollama import formats, options, think_option
from vllama_pool.router.protocol.ollama.requests import InferenceRequest
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.window import lower, narrowed, window_of
from vllama_pool.workers.registry.record import ModelInfo


class ModelPlan:
    """Requests with a model's defaults, to be copied and completed."""

    __slots__ = (
        *("_chat", "_completion", "_described", "_streamed_interval", "_whole_interval"),
        *("defaults", "info", "output", "resumes", "window"),
    )

    def __init__(self, info: ModelInfo, defaults: Defaults, whole_interval: int = 1) -> None:
        """`whole_interval`: tokens per event of an answer that is not streamed."""
        self._described = info  # `PlanCache` knows the plan by this object
        self.info = info = narrowed(info, defaults)
        self.window = window_of(self._described, defaults)
        """A context smaller than the worker's, in tokens. None if vLLM's own is the limit."""
        self.output = lower(defaults.output, self.window)
        """Longest answer in tokens; None for any."""
        self.defaults = defaults
        self.resumes = defaults.resumes
        """Another worker may continue an answer."""
        values = options.sampling(options.merge(None, defaults.options, info), info)
        values["max_tokens"] = lower(values.get("max_tokens"), self.output)
        self._chat = api.VllmChatRequest(
            model=info.name, messages=[], stream=True, stream_options=api.INCLUDE_USAGE, **values
        )
        think_option.apply(self._chat, None, info)
        self._completion = api.VllmCompletionRequest(
            model=info.name, prompt="", stream=True, stream_options=api.INCLUDE_USAGE, **values
        )
        self._streamed_interval = _interval(defaults.stream_interval)
        self._whole_interval = _interval(max(whole_interval, defaults.stream_interval))

    def chat(
        self,
        request: InferenceRequest,
        messages: list[api.VllmMessage],
        refusals: Sequence[AttemptFailed] = (),
    ) -> api.VllmChatRequest:
        """Leaves out the switch of thinking if it was refused."""
        chat = self._chat.copy()
        chat.messages = messages
        self._complete(chat, request)
        if request.think is not None or refusals:
            think_option.apply(chat, request.think, self.info, refusals)
        if request.logprobs:
            chat.logprobs = True
            chat.top_logprobs = request.top_logprobs
        return chat

    def completion(self, request: InferenceRequest, prompt: str | list[int]) -> api.VllmCompletionRequest:
        completion = self._completion.copy()
        completion.prompt = prompt
        self._complete(completion, request)
        if completion.max_tokens is None:
            completion.max_tokens = options.default_max_tokens(self.info)
        completion.max_tokens = lower(completion.max_tokens, self.output)
        if request.logprobs:
            completion.logprobs = request.top_logprobs
        return completion

    def _complete(self, upstream: api.VllmChatRequest | api.VllmCompletionRequest, request: InferenceRequest) -> None:
        if request.options:
            options.override(upstream, request.options, self.defaults.options, self.info)
            if self.output is not None:
                upstream.max_tokens = lower(upstream.max_tokens, self.output)
        upstream.stream_interval = self._streamed_interval if request.stream else self._whole_interval
        if request.response_format is not None:
            upstream.response_format = formats.require_valid(request.response_format)
            # Without vLLM's count, which may not arrive, tokens are counted by their ids.
            upstream.return_token_ids = upstream.stream_interval is not None and not request.stream


def _interval(tokens: int) -> int | None:
    """None for vLLM's default."""
    return tokens if tokens > 1 else None
