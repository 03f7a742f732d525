"""Prompts of requests: rendered, tokenized, and truncated on request."""

from __future__ import annotations

from vllama_pool.workers.simulated import context, errors, template
from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.shapes import ChatBody, CompletionRequest, TokenizeChat


def check_model(name: str | None, options: Options) -> None:
    """A missing name means the first model. Raises ApiError."""
    if name and name not in options.names:
        raise errors.unknown_model(name, options.names)


def rendered(body: ChatBody | TokenizeChat, options: Options) -> str:
    """Raises ApiError."""
    if not options.chat_template:
        raise errors.no_template()
    return template.render(
        body.messages,
        body.tools,
        model=options.model,
        strict=options.strict_template,
        no_thinking=options.reasoning and is_thinking_disabled(body),
        add_generation_prompt=body.add_generation_prompt,
        continue_final=body.continue_final_message,
    )


def is_thinking_disabled(body: ChatBody | TokenizeChat) -> bool:
    enabled = (body.chat_template_kwargs or {}).get("enable_thinking")
    effort = body.reasoning_effort if isinstance(body, ChatBody) else None
    return enabled is False or (enabled is None and effort == "none")


def limited(prompt: str | list[int], body: ChatBody | CompletionRequest, options: Options) -> list[int]:
    """Tokenize, and truncate on request. Raises ApiError."""
    truncate = body.truncate_prompt_tokens
    limit = options.max_model_len
    if truncate is not None and truncate > limit:
        raise errors.parameter(
            f"truncate_prompt_tokens={truncate} cannot be greater than max_model_len = {limit}. Please request a "
            "smaller truncation size.",
            "truncate_prompt_tokens",
            truncate,
        )
    if truncate == 0:
        raise ApiError("The decoder prompt cannot be empty", in_stream=bool(body.stream))
    tokens = context.tokenize(prompt, limit, truncated=truncate is not None)
    if not tokens:
        raise ApiError("The decoder prompt cannot be empty", in_stream=bool(body.stream))
    if truncate is not None:
        return tokens[-(limit - 1 if truncate == -1 else truncate) :]
    context.check(prompt, tokens, limit, room=1)
    return tokens


def as_prompts(inputs: str | list[int] | list[str] | list[list[int]]) -> list[str | list[int]]:
    """Return the inputs as a list of texts or token ids."""
    if isinstance(inputs, str):
        return [inputs]
    if inputs and isinstance(inputs[0], int):
        return [[token for token in inputs if isinstance(token, int)]]
    return [part if isinstance(part, str) else list(part) for part in inputs if not isinstance(part, int)]
