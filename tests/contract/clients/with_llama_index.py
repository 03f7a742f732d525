"""llama-index-llms-ollama and llama-index-embeddings-ollama. The client sends completions as chats."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock, ToolCallBlock
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama
from loop import Answer, answer, serve


class LlamaIndex:
    def __init__(self, url: str, model: str, embedder: str) -> None:
        self._url = url
        self._model = model
        self._embedding = OllamaEmbedding(model_name=embedder, base_url=url)
        self._stream: Any = None

    def chat(self, question: str, options: dict[str, Any]) -> Answer:
        return _answer(self._llm(options).chat(_user(question)))

    def chat_stream(self, question: str, options: dict[str, Any]) -> Answer:
        parts = list(self._llm(options).stream_chat(_user(question)))
        return _answer(parts[-1], len(parts))

    def tools(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        llm = self._llm(options)
        return _after(llm, question, llm.chat(_user(question), tools=tools), tools, outcome)

    def tools_stream(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        llm = self._llm(options)
        *_, last = llm.stream_chat(_user(question), tools=tools)
        return _after(llm, question, last, tools, outcome)

    def format(self, question: str, schema: Any, options: dict[str, Any]) -> str:
        return self._llm(options).chat(_user(question), format=schema).message.content or ""

    def thinking(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        return _thought(self._llm(options, thinking=on).chat(_user(question)))

    def thinking_stream(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        *_, last = self._llm(options, thinking=on).stream_chat(_user(question))
        return _thought(last)

    def embed(self, texts: list[str]) -> Any:
        return self._embedding.get_text_embedding_batch(texts)

    def show(self) -> Any:
        return {"context": self._llm({}).metadata.context_window}

    def unknown_model(self) -> Any:
        return Ollama("nope", base_url=self._url).chat(_user("hello")).message.content

    def concurrent(self, count: int, question: str, options: dict[str, Any]) -> Any:
        async def run() -> list[str]:
            llm = self._llm(options)
            replies = await asyncio.gather(*(llm.achat(_user(question)) for _ in range(count)))
            return [reply.message.content or "" for reply in replies]

        return asyncio.run(run())

    def open_stream(self, question: str, options: dict[str, Any]) -> Any:
        self._stream = self._llm(options).stream_chat(_user(question))
        return next(self._stream).raw["done"]

    def close_stream(self) -> None:
        self._stream.close()

    def _llm(self, options: dict[str, Any], **fields: Any) -> Ollama:
        return Ollama(self._model, base_url=self._url, additional_kwargs=options, request_timeout=300, **fields)


def _user(question: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=question)]


def _after(llm: Ollama, question: str, reply: Any, tools: list[Any], outcome: str) -> dict[str, Any]:
    calls = [block for block in reply.message.blocks if isinstance(block, ToolCallBlock)]
    results = [
        ChatMessage(role="tool", content=outcome, additional_kwargs={"tool_call_id": call.tool_name}) for call in calls
    ]
    again = llm.chat([*_user(question), reply.message, *results], tools=tools)
    used = [{"name": call.tool_name, "arguments": dict(call.tool_kwargs)} for call in calls]
    return {"calls": used, "text": again.message.content or ""}


def _thought(reply: Any) -> dict[str, str]:
    thoughts = [block.content or "" for block in reply.message.blocks if isinstance(block, ThinkingBlock)]
    return {"thinking": "".join(thoughts), "text": reply.message.content or ""}


def _answer(reply: Any, parts: int | None = None) -> Answer:
    usage = reply.raw["usage"]
    counts = [usage["prompt_tokens"], usage["completion_tokens"]]
    return answer(reply.message.content or "", reply.raw["done_reason"], counts, parts)


if __name__ == "__main__":
    serve(LlamaIndex)
