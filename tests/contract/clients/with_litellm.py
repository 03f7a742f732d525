"""litellm: provider `ollama_chat` for chat; `ollama` for generate, embeddings and details of models."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import litellm
from litellm.llms.ollama.common_utils import OllamaModelInfo
from loop import Answer, answer, serve


class LiteLlm:
    def __init__(self, url: str, model: str, embedder: str) -> None:
        self._url = url
        self._model = model
        self._embedder = embedder
        self._loop = asyncio.new_event_loop()
        self._stream: Any = None

    def chat(self, question: str, options: dict[str, Any]) -> Answer:
        return _answer(self._complete(_user(question), options))

    def chat_stream(self, question: str, options: dict[str, Any]) -> Answer:
        return _joined(list(self._complete(_user(question), options, stream=True)))

    def generate(self, question: str, options: dict[str, Any]) -> Answer:
        return _answer(self._complete(_user(question), options, provider="ollama"))

    def generate_stream(self, question: str, options: dict[str, Any]) -> Answer:
        return _joined(list(self._complete(_user(question), options, provider="ollama", stream=True)))

    def tools(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        reply = self._complete(_user(question), options, tools=tools).choices[0].message
        return self._after(question, reply, tools, outcome, options)

    def tools_stream(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        parts = list(self._complete(_user(question), options, tools=tools, stream=True))
        reply = litellm.stream_chunk_builder(parts).choices[0].message
        return self._after(question, reply, tools, outcome, options)

    def format(self, question: str, schema: Any, options: dict[str, Any]) -> str:
        response_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        return self._complete(_user(question), options, response_format=response_format).choices[0].message.content

    def thinking(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        reply = self._complete(_user(question), options, reasoning_effort=_effort(on)).choices[0].message
        return {"thinking": getattr(reply, "reasoning_content", None) or "", "text": reply.content}

    def thinking_stream(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        stream = self._complete(_user(question), options, reasoning_effort=_effort(on), stream=True)
        deltas = [part.choices[0].delta for part in stream]
        return {
            "thinking": "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas),
            "text": "".join(delta.content or "" for delta in deltas),
        }

    def embed(self, texts: list[str]) -> Any:
        response = litellm.embedding(f"ollama/{self._embedder}", input=texts, api_base=self._url)
        return [one["embedding"] for one in response.data]

    def list(self) -> Any:
        return [name.removeprefix("ollama/") for name in OllamaModelInfo().get_models(api_base=self._url)]

    def show(self) -> Any:
        return {"context": OllamaModelInfo().get_runtime_model_info(self._model, api_base=self._url)["max_tokens"]}

    def unknown_model(self) -> Any:
        return litellm.completion("ollama_chat/nope", messages=_user("hello"), api_base=self._url, num_retries=0)

    def concurrent(self, count: int, question: str, options: dict[str, Any]) -> Any:
        with ThreadPoolExecutor(count) as pool:
            return [one["text"] for one in pool.map(lambda _: self.chat(question, options), range(count))]

    def open_stream(self, question: str, options: dict[str, Any]) -> Any:
        """Asynchronous, because litellm's other streams cannot be closed."""
        stream = litellm.acompletion(
            f"ollama_chat/{self._model}", messages=_user(question), api_base=self._url, stream=True, **options
        )
        self._stream = self._loop.run_until_complete(stream)
        return bool(self._loop.run_until_complete(anext(self._stream)).choices[0].finish_reason)

    def close_stream(self) -> None:
        self._loop.run_until_complete(self._stream.aclose())

    def _complete(self, messages: Any, options: dict[str, Any], *, provider: str = "ollama_chat", **fields: Any) -> Any:
        if fields.get("stream"):
            fields["stream_options"] = {"include_usage": True}
        return litellm.completion(
            f"{provider}/{self._model}", messages=messages, api_base=self._url, **options, **fields
        )

    def _after(self, question: str, reply: Any, tools: Any, outcome: str, options: dict[str, Any]) -> Any:
        calls = reply.tool_calls or []
        results = [{"role": "tool", "content": outcome, "tool_call_id": call.id} for call in calls]
        again = self._complete([*_user(question), reply, *results], options, tools=tools)
        used = [{"name": call.function.name, "arguments": json.loads(call.function.arguments)} for call in calls]
        return {"calls": used, "text": again.choices[0].message.content}


def _user(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


def _effort(on: bool) -> str:
    return "high" if on else "disable"


def _answer(reply: Any) -> Answer:
    counts = [reply.usage.prompt_tokens, reply.usage.completion_tokens]
    return answer(reply.choices[0].message.content, reply.choices[0].finish_reason, counts)


def _joined(parts: list[Any]) -> Answer:
    return _answer(litellm.stream_chunk_builder(parts)) | {"parts": len(parts)}


if __name__ == "__main__":
    serve(LiteLlm)
