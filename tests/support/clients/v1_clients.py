"""Stock clients of OpenAI's and Anthropic's API, and the scenarios of each."""

from __future__ import annotations

from tests.support.clients.stock_clients import Kind

_CHAT = frozenset(("chat", "chat_stream", "tools", "thinking", "unknown_model"))
_SDK = _CHAT | {
    *("tools_stream", "thinking_stream", "tool_choice", "helper", "raw", "list"),
    *("stream_of_unknown_model", "unknown_model_elsewhere", "bad_request", "embedding_model_in_chat"),
    *("time_out", "concurrent", "open_stream", "close_stream", "say"),
}
_OPENAI = _SDK | {
    *("usage", "choices", "format", "typed_format", "generate", "generate_stream"),
    *("embed", "embed_floats", "chat_model_in_embeddings", "retrieve", "transcribe"),
    *("respond", "respond_stream", "respond_helper", "respond_tools", "respond_reasoning", "respond_typed"),
    "respond_previous",
}
_ANTHROPIC = _SDK | {"beta", "budget", "count_tokens", "events", "retrieve"}
_AI_SDK = _CHAT | {
    *("tools_stream", "thinking_stream", "format", "typed_format", "generate", "generate_stream"),
    *("embed", "concurrent", "open_stream", "close_stream"),
}
_PYDANTIC_AI = _CHAT | {"typed_schema", "typed_tool", "embed"}
_INSTRUCTOR = frozenset(
    ("typed_schema", "typed_tool", "typed_stream", "typed_response", "typed_message", "unknown_model")
)

V1_KINDS = (
    Kind("openai-python", "with_openai.py", raises="NotFoundError", scenarios=_OPENAI),
    Kind("openai-js", "with_openai.mjs", raises="NotFoundError", scenarios=_OPENAI),
    Kind("anthropic-python", "with_anthropic.py", raises="NotFoundError", scenarios=_ANTHROPIC),
    Kind("anthropic-js", "with_anthropic.mjs", raises="NotFoundError", scenarios=_ANTHROPIC),
    Kind("ai-sdk", "with_ai_sdk.mjs", raises="AI_APICallError", scenarios=_AI_SDK),
    Kind("pydantic-ai", "with_pydantic_ai.py", raises="ModelHTTPError", scenarios=_PYDANTIC_AI),
    Kind("instructor", "with_instructor.py", raises="InstructorRetryException", scenarios=_INSTRUCTOR),
)
