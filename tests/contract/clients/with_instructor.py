"""PyPI's instructor: types by a JSON schema or by a tool, over openai and anthropic."""

from __future__ import annotations

from typing import Any

import anthropic
import instructor
import openai
from call import Call, get_weather
from loop import serve


class Instructor:
    def __init__(self, url: str, model: str, embedder: str, key: str = "unused") -> None:
        del embedder
        self._openai = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        self._anthropic = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
        self._model = model

    def typed_schema(self, question: str, options: dict[str, Any]) -> Any:
        client = instructor.from_openai(self._openai, mode=instructor.Mode.JSON_SCHEMA)
        return client.create(**self._request(question, options)).model_dump()

    def typed_tool(self, question: str, options: dict[str, Any]) -> Any:
        client = instructor.from_openai(self._openai, mode=instructor.Mode.TOOLS)
        return client.create(**self._request(question, options, get_weather)).model_dump()

    def typed_response(self, question: str, options: dict[str, Any]) -> Any:
        client = instructor.from_openai(self._openai, mode=instructor.Mode.RESPONSES_TOOLS)
        return client.create(**self._request(question, options, get_weather)).model_dump()

    def typed_message(self, question: str, options: dict[str, Any]) -> Any:
        client = instructor.from_anthropic(self._anthropic, mode=instructor.Mode.ANTHROPIC_TOOLS)
        rest = {"max_tokens": 200, "extra_body": options}
        return client.create(**self._request(question, rest, get_weather)).model_dump()

    def typed_stream(self, question: str, options: dict[str, Any]) -> Any:
        client = instructor.from_openai(self._openai, mode=instructor.Mode.JSON_SCHEMA)
        parts = list(client.create_partial(**self._request(question, options)))
        return {"parts": len(parts), "last": parts[-1].model_dump()}

    def unknown_model(self) -> Any:
        client = instructor.from_openai(self._openai, mode=instructor.Mode.JSON_SCHEMA)
        return client.create(**{**self._request("hello", {}), "model": "nope"})

    def _request(self, question: str, options: dict[str, Any], kind: Any = Call) -> dict[str, Any]:
        messages = [{"role": "user", "content": question}]
        return {"model": self._model, "messages": messages, "response_model": kind, "max_retries": 1, **options}


if __name__ == "__main__":
    serve(Instructor)
