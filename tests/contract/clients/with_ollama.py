"""PyPI's ollama, the official client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import ollama
from loop import Answer, answer, serve
from pydantic import BaseModel, Field


class Wind(BaseModel):
    speed: int = Field(ge=0, le=99)
    direction: Literal["north", "south"]


class Weather(BaseModel):
    sky: Literal["blue", "grey"]
    colours: set[Annotated[str, Field(max_length=6)]] = Field(max_length=3)
    wind: Wind
    note: Annotated[str, Field(max_length=9)] | None = None
    gusts: Wind | None = None


class OllamaPython:
    def __init__(self, url: str, model: str, embedder: str) -> None:
        self._client = ollama.Client(host=url)
        self._model = model
        self._embedder = embedder
        self._stream: Any = None

    def chat(self, question: str, options: dict[str, Any]) -> Answer:
        whole = self._client.chat(self._model, messages=_user(question), options=options)
        return _answer(whole, whole.message.content)

    def chat_stream(self, question: str, options: dict[str, Any]) -> Answer:
        parts = list(self._client.chat(self._model, messages=_user(question), options=options, stream=True))
        return _answer(parts[-1], "".join(part.message.content for part in parts), len(parts))

    def generate(self, question: str, options: dict[str, Any]) -> Answer:
        whole = self._client.generate(self._model, prompt=question, options=options)
        return _answer(whole, whole.response)

    def generate_stream(self, question: str, options: dict[str, Any]) -> Answer:
        parts = list(self._client.generate(self._model, prompt=question, options=options, stream=True))
        return _answer(parts[-1], "".join(part.response for part in parts), len(parts))

    def tools(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        messages: list[Any] = _user(question)
        called = self._client.chat(self._model, messages=messages, tools=tools, options=options).message
        return self._after(messages, called, called.tool_calls or [], tools, outcome, options)

    def tools_stream(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        messages: list[Any] = _user(question)
        parts = list(self._client.chat(self._model, messages=messages, tools=tools, options=options, stream=True))
        calls = [call for part in parts for call in part.message.tool_calls or []]
        reply = ollama.Message(role="assistant", content="", tool_calls=calls)
        return self._after(messages, reply, calls, tools, outcome, options)

    def format(self, question: str, schema: Any, options: dict[str, Any]) -> str:
        whole = self._client.chat(self._model, messages=_user(question), format=schema, options=options)
        return whole.message.content

    def typed_format(self, question: str, options: dict[str, Any]) -> Any:
        content = self.format(question, Weather.model_json_schema(), options)
        return {"text": content, "parsed": Weather.model_validate_json(content).model_dump(mode="json")}

    def thinking(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        message = self._client.chat(self._model, messages=_user(question), think=on, options=options).message
        return {"thinking": message.thinking or "", "text": message.content}

    def thinking_stream(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        stream = self._client.chat(self._model, messages=_user(question), think=on, options=options, stream=True)
        parts = [part.message for part in stream]
        return {
            "thinking": "".join(part.thinking or "" for part in parts),
            "text": "".join(part.content or "" for part in parts),
        }

    def embed(self, texts: list[str]) -> Any:
        return [list(vector) for vector in self._client.embed(self._embedder, input=texts).embeddings]

    def list(self) -> Any:
        return [model.model for model in self._client.list().models]

    def show(self) -> Any:
        shown = self._client.show(self._model)
        architecture = shown.modelinfo["general.architecture"]
        return {"capabilities": shown.capabilities, "context": shown.modelinfo[f"{architecture}.context_length"]}

    def ps(self) -> Any:
        return [
            {"name": model.model, "expires": model.expires_at.timestamp(), "size": model.size_vram}
            for model in self._client.ps().models
        ]

    def pull(self) -> Any:
        whole = self._client.pull(self._model).status
        return [whole, *(part.status for part in self._client.pull(self._model, stream=True))]

    def create_copy_delete(self, name: str, system: str) -> Any:
        created = self._client.create(name, from_=self._model, system=system)
        copied = self._client.copy(name, f"{name}-copy")
        shown = self._client.show(f"{name}-copy")
        reply = self._client.generate(f"{name}-copy", prompt="hello").response
        deleted = [self._client.delete(each).status for each in (name, f"{name}-copy")]
        return {"statuses": [created.status, copied.status, *deleted], "modelfile": shown.modelfile, "text": reply}

    def unknown_model(self) -> Any:
        return self._client.chat("nope", messages=_user("hello")).message.content

    def concurrent(self, count: int, question: str, options: dict[str, Any]) -> Any:
        with ThreadPoolExecutor(count) as pool:
            return [each["text"] for each in pool.map(lambda _: self.chat(question, options), range(count))]

    def open_stream(self, question: str, options: dict[str, Any]) -> Any:
        self._stream = self._client.chat(self._model, messages=_user(question), options=options, stream=True)
        return next(self._stream).done

    def close_stream(self) -> None:
        self._stream.close()

    def _after(
        self, messages: Any, reply: Any, calls: Any, tools: Any, outcome: str, options: dict[str, Any]
    ) -> dict[str, Any]:
        results = [{"role": "tool", "content": outcome, "tool_name": call.function.name} for call in calls]
        again = self._client.chat(self._model, messages=[*messages, reply, *results], tools=tools, options=options)
        used = [{"name": call.function.name, "arguments": dict(call.function.arguments)} for call in calls]
        return {"calls": used, "text": again.message.content}


def _user(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


def _answer(last: Any, text: str, parts: int | None = None) -> Answer:
    return answer(text, last.done_reason, [last.prompt_eval_count, last.eval_count], parts)


if __name__ == "__main__":
    serve(OllamaPython)
