"""langchain-ollama: ChatOllama for chat, OllamaLLM for generate, OllamaEmbeddings."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from loop import Answer, answer, serve


class LangChain:
    def __init__(self, url: str, model: str, embedder: str) -> None:
        self._url = url
        self._model = model
        self._embeddings = OllamaEmbeddings(model=embedder, base_url=url)
        self._stream: Any = None

    def chat(self, question: str, options: dict[str, Any]) -> Answer:
        return _answer(self._chat(options).invoke(question))

    def chat_stream(self, question: str, options: dict[str, Any]) -> Answer:
        parts = list(self._chat(options).stream(question))
        return _answer(reduce(add, parts), len(parts))

    def generate(self, question: str, options: dict[str, Any]) -> Answer:
        return _generation(self._llm(options).generate([question]).generations[0][0])

    def generate_stream(self, question: str, options: dict[str, Any]) -> Answer:
        parts = list(self._llm(options).stream(question))
        return answer("".join(parts), None, None, len(parts))

    def tools(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        chat = self._chat(options).bind_tools(tools)
        return _after(chat, question, chat.invoke(question), outcome)

    def tools_stream(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        chat = self._chat(options).bind_tools(tools)
        return _after(chat, question, reduce(add, chat.stream(question)), outcome)

    def format(self, question: str, schema: Any, options: dict[str, Any]) -> str:
        structured = self._chat(options).with_structured_output(schema, method="json_schema", include_raw=True)
        return structured.invoke(question)["raw"].content

    def thinking(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        return _thought(self._chat(options, reasoning=on).invoke(question))

    def thinking_stream(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        return _thought(reduce(add, self._chat(options, reasoning=on).stream(question)))

    def embed(self, texts: list[str]) -> Any:
        return self._embeddings.embed_documents(texts)

    def list(self) -> Any:
        """The client reads the list itself, and raises if it lacks the model."""
        return [ChatOllama(model=self._model, base_url=self._url, validate_model_on_init=True).model]

    def unknown_model(self) -> Any:
        return ChatOllama(model="nope", base_url=self._url).invoke("hello").content

    def concurrent(self, count: int, question: str, options: dict[str, Any]) -> Any:
        replies = self._chat(options).batch([question] * count, config={"max_concurrency": count})
        return [reply.content for reply in replies]

    def open_stream(self, question: str, options: dict[str, Any]) -> Any:
        self._stream = self._chat(options).stream(question)
        return next(self._stream).response_metadata.get("done", False)

    def close_stream(self) -> None:
        self._stream.close()

    def _chat(self, options: dict[str, Any], **fields: Any) -> ChatOllama:
        return ChatOllama(model=self._model, base_url=self._url, **options, **fields)

    def _llm(self, options: dict[str, Any]) -> OllamaLLM:
        return OllamaLLM(model=self._model, base_url=self._url, **options)


def _after(chat: Any, question: str, reply: Any, outcome: str) -> dict[str, Any]:
    results = [ToolMessage(outcome, tool_call_id=call["id"]) for call in reply.tool_calls]
    again = chat.invoke([HumanMessage(question), reply, *results])
    calls = [{"name": call["name"], "arguments": call["args"]} for call in reply.tool_calls]
    return {"calls": calls, "text": again.content}


def _thought(reply: Any) -> dict[str, str]:
    return {"thinking": reply.additional_kwargs.get("reasoning_content", ""), "text": reply.content}


def _answer(reply: Any, parts: int | None = None) -> Answer:
    usage = reply.usage_metadata
    reason = reply.response_metadata["done_reason"]
    return answer(reply.content, reason, [usage["input_tokens"], usage["output_tokens"]], parts)


def _generation(generation: Any) -> Answer:
    info = generation.generation_info
    return answer(generation.text, info["done_reason"], [info["prompt_eval_count"], info["eval_count"]])


if __name__ == "__main__":
    serve(LangChain)
