"""PyPI's openai, the official client."""

from __future__ import annotations

import asyncio
import io
import json
import wave
from typing import Any

import openai
from call import Call
from loop import Answer, answer, serve
from openai.lib.streaming.chat import ChatCompletionStreamState


class OpenAIPython:
    def __init__(self, url: str, model: str, embedder: str, key: str = "unused") -> None:
        settings: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": key, "max_retries": 0}
        self._client = openai.OpenAI(**settings)
        self._settings = settings
        self._model = model
        self._embedder = embedder
        self._stream: Any = None

    # --- chat completions

    def chat(self, question: str, options: dict[str, Any]) -> Answer:
        whole = self._create(_user(question), **options)
        return _answer(whole.choices[0], whole.choices[0].message.content, whole.usage)

    def chat_stream(self, question: str, options: dict[str, Any]) -> Answer:
        parts = list(self._create(_user(question), **options, stream=True, stream_options={"include_usage": True}))
        chosen = [part.choices[0] for part in parts if part.choices]
        reason = next(choice for choice in chosen if choice.finish_reason)
        text = "".join(choice.delta.content or "" for choice in chosen)
        return _answer(reason, text, parts[-1].usage, len(parts))

    def usage(self, question: str, options: dict[str, Any]) -> Any:
        """True for each event with usage, of a stream without and with `include_usage`."""
        plain = self._create(_user(question), **options, stream=True)
        asked = self._create(_user(question), **options, stream=True, stream_options={"include_usage": True})
        return [[part.usage is not None for part in stream] for stream in (plain, asked)]

    def helper(self, question: str, options: dict[str, Any]) -> Any:
        with self._client.chat.completions.stream(model=self._model, messages=_user(question), **options) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_completion()
        return {"kinds": kinds, "text": final.choices[0].message.content, "model": final.model}

    def choices(self, question: str, count: int, options: dict[str, Any]) -> Any:
        whole = self._create(_user(question), n=count, **options)
        streamed = [""] * count
        for part in self._create(_user(question), n=count, **options, stream=True):
            for choice in part.choices:
                streamed[choice.index] += choice.delta.content or ""
        return {
            "indexes": [choice.index for choice in whole.choices],
            "whole": [choice.message.content for choice in whole.choices],
            "streamed": streamed,
        }

    def tools(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        reply = self._create(_user(question), tools=tools, **options).choices[0]
        calls = [_call(each.function) for each in reply.message.tool_calls or []]
        results = [_result(each.id, outcome) for each in reply.message.tool_calls or []]
        messages = [*_user(question), reply.message, *results]
        again = self._create(messages, tools=tools, **options)
        return {"calls": calls, "reason": reply.finish_reason, "text": again.choices[0].message.content}

    def tools_stream(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        state = ChatCompletionStreamState(input_tools=tools)
        stream = self._create(_user(question), **options, tools=tools, stream=True)
        parts = [one for part in stream for one in _split(part)]
        events = [event for part in parts for event in state.handle_chunk(part)]
        done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
        reply = state.get_final_completion().choices[0]
        ids = [each.id for each in reply.message.tool_calls or []]
        messages = [*_user(question), reply.message, *(_result(each, outcome) for each in ids)]
        again = self._create(messages, tools=tools, **options)
        calls = [{"name": each.name, "arguments": json.loads(each.arguments)} for each in done]
        return {"calls": calls, "reason": reply.finish_reason, "text": again.choices[0].message.content}

    def tool_choice(self, question: str, tools: list[Any], choice: Any, options: dict[str, Any]) -> Any:
        """The calls of a whole and a streamed answer."""
        settings: dict[str, Any] = {"tools": tools, "tool_choice": choice, **options}
        whole = self._create(_user(question), **settings).choices[0]
        streamed: dict[int, dict[str, str]] = {}
        reason = None
        for part in self._create(_user(question), **settings, stream=True):
            for each in part.choices:
                reason = each.finish_reason or reason
                for delta in each.delta.tool_calls or []:
                    call = streamed.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
                    call["id"] += delta.id or ""
                    call["name"] += delta.function.name or ""
                    call["arguments"] += delta.function.arguments or ""
        return {
            "whole": [_call(each.function) for each in whole.message.tool_calls or []],
            "streamed": [
                {"name": call["name"], "arguments": json.loads(call["arguments"])} for call in streamed.values()
            ],
            "ids": [each.id for each in whole.message.tool_calls or []] + [each["id"] for each in streamed.values()],
            "reasons": [whole.finish_reason, reason],
        }

    def typed_format(self, question: str, options: dict[str, Any]) -> Any:
        parse = self._client.chat.completions.parse
        message = parse(model=self._model, messages=_user(question), response_format=Call, **options).choices[0].message
        return {"text": message.content, "parsed": message.parsed.model_dump()}

    def format(self, question: str, schema: Any, options: dict[str, Any]) -> str:
        shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        return self._create(_user(question), response_format=shape, **options).choices[0].message.content

    def thinking(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        message = self._create(_user(question), reasoning_effort=_effort(on), **options).choices[0].message
        extra = message.model_extra
        return {"thinking": _both(extra), "text": message.content}

    def thinking_stream(self, question: str, on: bool, options: dict[str, Any]) -> Any:
        stream = self._create(_user(question), reasoning_effort=_effort(on), stream=True, **options)
        deltas = [part.choices[0].delta for part in stream if part.choices]
        return {
            "thinking": "".join(_both(delta.model_extra) for delta in deltas),
            "text": "".join(delta.content or "" for delta in deltas),
        }

    # --- the other routes

    def generate(self, question: str, options: dict[str, Any]) -> Answer:
        whole = self._client.completions.create(model=self._model, prompt=question, **options)
        return _answer(whole.choices[0], whole.choices[0].text, whole.usage)

    def generate_stream(self, question: str, options: dict[str, Any]) -> Answer:
        stream = self._client.completions.create(model=self._model, prompt=question, stream=True, **options)
        parts = [part for part in stream if part.choices]
        text = "".join(part.choices[0].text for part in parts)
        return _answer(parts[-1].choices[0], text, None, len(parts))

    def embed(self, texts: list[str]) -> Any:
        return self._vectors(texts)

    def embed_floats(self, texts: list[str]) -> Any:
        return self._vectors(texts, encoding_format="float")

    def transcribe(self) -> Any:
        """The text of a second of silence, by response format."""
        audio = io.BytesIO()
        with wave.open(audio, "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(bytes(32000))
        request: dict[str, Any] = {"model": self._model, "file": ("speech.wav", audio.getvalue())}
        create = self._client.audio.transcriptions.create
        return {
            "json": create(**request).text,
            "text": create(**request, response_format="text"),
            "verbose_json": create(**request, response_format="verbose_json").text,
        }

    def list(self) -> Any:
        return [model.id for model in self._client.models.list()]

    def retrieve(self, name: str) -> Any:
        model = self._client.models.retrieve(name)
        return {"id": model.id, "object": model.object, "created": model.created, "owner": model.owned_by}

    # --- responses

    def respond(self, question: str, options: dict[str, Any]) -> Answer:
        whole = self._client.responses.create(model=self._model, input=question, **options)
        return answer(whole.output_text, whole.status, [whole.usage.input_tokens, whole.usage.output_tokens])

    def respond_stream(self, question: str, options: dict[str, Any]) -> Any:
        events = list(self._client.responses.create(model=self._model, input=question, stream=True, **options))
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        return {
            "kinds": [event.type for event in events],
            "numbers": [event.sequence_number for event in events],
            "text": "".join(deltas),
            "final": events[-1].response.output_text,
            "model": events[-1].response.model,
        }

    def respond_helper(self, question: str, options: dict[str, Any]) -> Any:
        with self._client.responses.stream(model=self._model, input=question, **options) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        return {"kinds": kinds, "text": final.output_text, "status": final.status}

    def respond_tools(self, question: str, tools: list[Any], outcome: str, options: dict[str, Any]) -> Any:
        asked = [{"type": "message", "role": "user", "content": question}]
        settings: dict[str, Any] = {"model": self._model, "tools": _flat(tools), **options}
        reply = self._client.responses.create(input=asked, **settings)
        calls = [item for item in reply.output if item.type == "function_call"]
        results = [{"type": "function_call_output", "call_id": call.call_id, "output": outcome} for call in calls]
        items = [*asked, *(item.model_dump(exclude_none=True) for item in reply.output), *results]
        again = self._client.responses.create(input=items, **settings)
        return {"calls": [_call(call) for call in calls], "text": again.output_text}

    def respond_reasoning(self, question: str, options: dict[str, Any]) -> Any:
        reply = self._client.responses.create(
            model=self._model, input=question, reasoning={"effort": "medium"}, **options
        )
        reasoning = next(item for item in reply.output if item.type == "reasoning")
        return {"thinking": "".join(part.text for part in reasoning.content or []), "text": reply.output_text}

    def respond_typed(self, question: str, options: dict[str, Any]) -> Any:
        reply = self._client.responses.parse(model=self._model, input=question, text_format=Call, **options)
        return {"text": reply.output_text, "parsed": reply.output_parsed.model_dump()}

    def respond_previous(self) -> Any:
        return self._client.responses.create(model=self._model, input="hello", previous_response_id="resp_1").id

    # --- errors, headers, leaving

    def say(self, question: str, streamed: bool) -> Any:
        if not streamed:
            return self._create(_user(question)).choices[0].message.content
        return [str(part) for part in self._create(_user(question), stream=True)][-1]

    def unknown_model(self) -> Any:
        return self._client.chat.completions.create(model="nope", messages=_user("hello")).id

    def unknown_model_elsewhere(self, route: str) -> Any:
        calls = {
            "completions": lambda: self._client.completions.create(model="nope", prompt="hello"),
            "embeddings": lambda: self._client.embeddings.create(model="nope", input="hello"),
            "responses": lambda: self._client.responses.create(model="nope", input="hello"),
            "models": lambda: self._client.models.retrieve("nope"),
        }
        return str(calls[route]())

    def stream_of_unknown_model(self) -> Any:
        return [
            str(part) for part in self._client.chat.completions.create(model="nope", messages=_user("hi"), stream=True)
        ]

    def bad_request(self, fields: dict[str, Any]) -> Any:
        return self._create(_user("hello"), extra_body=fields).id

    def embedding_model_in_chat(self) -> Any:
        return self._client.chat.completions.create(model=self._embedder, messages=_user("hello")).id

    def chat_model_in_embeddings(self) -> Any:
        return len(self._client.embeddings.create(model=self._model, input="hello").data)

    def raw(self, question: str, options: dict[str, Any]) -> Any:
        settings: dict[str, Any] = {"model": self._model, "messages": _user(question), **options}
        response = self._client.chat.completions.with_raw_response.create(**settings)
        parsed = response.parse()
        return {
            "status": response.status_code,
            "type": response.headers["content-type"],
            "id": response.request_id,
            "header": response.headers["x-request-id"],
            "text": parsed.choices[0].message.content,
            "parsed_id": parsed._request_id,
        }

    def time_out(self, question: str, options: dict[str, Any], seconds: float) -> Any:
        client = self._client.with_options(timeout=seconds)
        return client.chat.completions.create(model=self._model, messages=_user(question), **options).id

    def concurrent(self, count: int, question: str, options: dict[str, Any]) -> Any:
        async def all_texts() -> list[str]:
            async with openai.AsyncOpenAI(**self._settings) as client:
                chats = [
                    client.chat.completions.create(model=self._model, messages=_user(question), **options)
                    for _ in range(count)
                ]
                return [whole.choices[0].message.content for whole in await asyncio.gather(*chats)]

        return asyncio.run(all_texts())

    def open_stream(self, question: str, options: dict[str, Any]) -> Any:
        self._stream = self._create(_user(question), **options, stream=True)
        return next(self._stream).choices[0].finish_reason is not None

    def close_stream(self) -> None:
        self._stream.close()

    def _create(self, messages: Any, **rest: Any) -> Any:
        return self._client.chat.completions.create(model=self._model, messages=messages, **rest)

    def _vectors(self, texts: Any, **rest: Any) -> Any:
        return [
            each.embedding for each in self._client.embeddings.create(model=self._embedder, input=texts, **rest).data
        ]


def _split(part: Any) -> list[Any]:
    """Return the event as several with one delta of a call each.

    A vLLM that is late joins a call's name and its arguments in one event, as two deltas of one index. The client's
    helper takes them for two calls.
    """
    if not part.choices or len(part.choices[0].delta.tool_calls or ()) < 2:
        return [part]
    parts = []
    for call in part.choices[0].delta.tool_calls:
        one = part.model_copy(deep=True)
        one.choices[0].delta.tool_calls = [call]
        one.choices[0].finish_reason = None
        parts.append(one)
    parts[-1].choices[0].finish_reason = part.choices[0].finish_reason
    return parts


def _user(question: str) -> Any:
    return [{"role": "user", "content": question}]


def _result(call: str, outcome: str) -> Any:
    return {"role": "tool", "tool_call_id": call, "content": outcome}


def _call(function: Any) -> dict[str, Any]:
    return {"name": function.name, "arguments": json.loads(function.arguments)}


def _flat(tools: Any) -> Any:
    return [{"type": "function", **tool["function"]} for tool in tools]


def _effort(on: bool) -> Any:
    return "medium" if on else "none"


def _both(extra: dict[str, Any]) -> str:
    """Thoughts, which an answer has under both names."""
    thoughts = [extra.get(name) or "" for name in ("reasoning", "reasoning_content")]
    if thoughts[0] != thoughts[1]:
        raise ValueError(f"reasoning and reasoning_content differ: {thoughts}")
    return thoughts[0]


def _answer(choice: Any, text: str, usage: Any, parts: int | None = None) -> Answer:
    counts = None if usage is None else [usage.prompt_tokens, usage.completion_tokens]
    return answer(text, choice.finish_reason, counts, parts)


if __name__ == "__main__":
    serve(OpenAIPython)
