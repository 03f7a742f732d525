"""PyPI's pydantic-ai: agents over its OpenAI and Ollama providers, and over OpenAI's Responses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from call import Call, get_weather
from loop import Answer, answer, serve
from pydantic_ai import Agent, NativeOutput, Tool, ToolOutput
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.messages import ModelResponse, ThinkingPart, ToolCallPart
from pydantic_ai.models import Model
from pydantic_ai.models.ollama import OllamaModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.ollama import OllamaProvider
from pydantic_ai.providers.openai import OpenAIProvider


class PydanticAI:
    def __init__(self, url: str, model: str, embedder: str, key: str = "unused", provider: str = "openai") -> None:
        self._make = lambda name: _model(provider, url, name, key)
        self._model = model
        self._openai = OpenAIProvider(base_url=f"{url}/v1", api_key=key)
        self._embedder = embedder

    def chat(self, question: str, options: dict[str, Any]) -> Answer:
        result = self._agent().run_sync(question, model_settings=_settings(options))
        return _answer(result, result.output)

    def chat_stream(self, question: str, options: dict[str, Any]) -> Answer:
        async def run() -> Answer:
            async with self._agent().run_stream(question, model_settings=_settings(options)) as result:
                parts = [part async for part in result.stream_text(delta=True, debounce_by=None)]
                return _answer(result, "".join(parts), len(parts))

        return asyncio.run(run())

    def tools(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        function = tools[0]["function"]

        def call(**_: Any) -> str:
            return outcome

        named = Tool.from_schema(call, function["name"], function["description"], function["parameters"])
        result = self._agent(tools=[named]).run_sync(question, model_settings=_settings(options))
        return {"calls": _calls(result)[:1], "text": result.output}

    def typed_tool(self, question: str, options: dict[str, Any]) -> Any:
        return self._typed(ToolOutput(get_weather, name="get_weather"), question, options)

    def typed_schema(self, question: str, options: dict[str, Any]) -> Any:
        return self._typed(NativeOutput(Call), question, options)

    def thinking(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        settings = _settings({**options, "openai_reasoning_effort": "medium" if on else "none"})
        result = self._agent().run_sync(question, model_settings=settings)
        parts = [part for part in _parts(result) if isinstance(part, ThinkingPart)]
        return {"thinking": "".join(part.content for part in parts), "text": result.output}

    def embed(self, texts: list[str]) -> Any:
        model = OpenAIEmbeddingModel(self._embedder, provider=self._openai)
        result = asyncio.run(model.embed(texts, input_type="document"))
        return [list(vector) for vector in result.embeddings]

    def unknown_model(self) -> Any:
        return Agent(self._make("nope")).run_sync("hello").output

    def _agent(self, **settings: Any) -> Agent[Any, Any]:
        return Agent(self._make(self._model), **settings)

    def _typed(self, output: Any, question: str, options: dict[str, Any]) -> Any:
        result = self._agent(output_type=output).run_sync(question, model_settings=_settings(options))
        return result.output.model_dump()


def _model(provider: str, url: str, name: str, key: str) -> Model:
    match provider:
        case "ollama":
            return OllamaModel(name, provider=OllamaProvider(base_url=f"{url}/v1", api_key=key))
        case "responses":
            return OpenAIResponsesModel(name, provider=OpenAIProvider(base_url=f"{url}/v1", api_key=key))
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=f"{url}/v1", api_key=key))


def _settings(options: dict[str, Any]) -> Any:
    return {"max_tokens": 200, **options}


def _answer(result: Any, text: str, parts: int | None = None) -> Answer:
    usage = result.usage
    reason = [message.finish_reason for message in result.all_messages() if isinstance(message, ModelResponse)][-1]
    return answer(text, reason, [usage.input_tokens, usage.output_tokens], parts)


def _parts(result: Any) -> Any:
    return [part for message in result.all_messages() if isinstance(message, ModelResponse) for part in message.parts]


def _calls(result: Any) -> Any:
    calls = [part for part in _parts(result) if isinstance(part, ToolCallPart)]
    return [{"name": call.tool_name, "arguments": json.loads(call.args_as_json_str())} for call in calls]


if __name__ == "__main__":
    serve(PydanticAI)
