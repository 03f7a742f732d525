"""POST /v1/responses: checks, and the request to vLLM (R032, R118).

The pool keeps no state, so each request brings the whole conversation. It is read as a conversation of the chat
endpoint, whose defaults and template rules apply, and sent as items again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol import capabilities
from vllama_pool.router.protocol.openai import messages
from vllama_pool.router.protocol.openai.chat import NO_TEMPLATE, explain_context
from vllama_pool.router.protocol.openai.messages import Message
from vllama_pool.router.protocol.openai.responses import conversation, items, requests, trial
from vllama_pool.router.protocol.openai.responses.reasoning import ENCRYPTED, with_encrypted_output
from vllama_pool.router.protocol.openai.responses.requests import ReasoningOptions, ResponsesRequest
from vllama_pool.router.protocol.openai.responses.stream import ResponsesStream
from vllama_pool.router.protocol.openai.responses.tools import Tools, select
from vllama_pool.router.protocol.openai.responses.trial import Trials
from vllama_pool.router.protocol.operation import Clock, NextStep, StreamTranslator, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, strict_templates, tokenize
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.router.protocol.vllm.thinking_refusals import refuses_effort
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer, read_response
from vllama_pool.router.protocol.vllm.window import lower, room_after, surely_fits
from vllama_pool.workers.registry.record import ModelInfo

_MAX_OUTPUT = re.compile(r"max_output_tokens=\d+ cannot be greater than max_model_len=(\d+)")


class ResponsesCall(msgspec.Struct, frozen=True):
    """A request that has passed all checks that need no model."""

    fields: ResponsesRequest
    conversation: list[Message]
    tools: Tools
    unfinished: str | None
    """The status of a last message that vLLM is to continue."""

    keep_alive = None

    @property
    def model(self) -> str:
        return self.fields.model

    @property
    def stream(self) -> bool:
        return self.fields.streamed is True

    @property
    def streams_answer(self) -> bool:
        return self.stream


def decode(body: bytes) -> ResponsesCall:
    """Raises BadRequest."""
    fields = requests.decode(body)
    given = fields.input or ""
    messages_ = conversation.read(given, fields.instructions)
    tools = select([("tools", fields.tools or ()), *conversation.brought_tools(given)], fields.tool_choice)
    return ResponsesCall(fields, messages_, tools, conversation.unfinished(given))


def check(call: ResponsesCall, info: ModelInfo, defaults: Defaults = NO_DEFAULTS) -> None:
    """Raises BadRequest if the model lacks what the request needs."""
    capabilities.refuse_image_generation(info)
    capabilities.require_completion("chat", call.model, info)
    if call.tools.sent and call.tools.choice != "none":
        capabilities.require_tools(call.model, info, defaults)
    capabilities.require(messages.required_capabilities(call.conversation), call.model, info)
    if not info.has_template:
        raise BadRequest(NO_TEMPLATE.format(model=call.model))


def prepare(call: ResponsesCall, plan: ModelPlan, trials: Trials) -> NextStep:
    if plan.drops_tools():
        return _send(_without_tools(call), plan, trials, strict_templates.without_tools)
    return _send(call, plan, trials, strict_templates.unchanged)


def adapt(call: ResponsesCall, plan: ModelPlan, trials: Trials, *refusals: AttemptFailed) -> NextStep | None:
    """Change what the template refuses, and the limit and effort that the worker does. Nothing is shortened."""
    latest = refusals[-1]
    media = messages.required_capabilities(call.conversation)
    capabilities.explain_refusal(latest, call.model, media, plan.defaults)
    explain_context(latest, "input")
    within = next((int(found[1]) for each in refusals if (found := _MAX_OUTPUT.search(each.text))), None)
    others = [each for each in refusals if not _is_answered(each)]
    changed = _without_effort(call) if any(map(refuses_effort, refusals)) else call
    if any(map(capabilities.refuses_tools, refusals)):
        changed = _without_tools(changed)
    sent = _conversation(call, plan)
    dropping = strict_templates.without_tools if plan.drops_tools(refusals) else strict_templates.unchanged
    form = strict_templates.form_after(others, dropping(sent), plan.info)
    if form is None or (form is strict_templates.unchanged and within is None and changed is call):
        return None
    if plan.drops_tools(refusals):
        changed = _without_tools(changed)
    return _send(changed, plan, trials, strict_templates.composed(dropping, form), within)


def _is_answered(failure: AttemptFailed) -> bool:
    """True for a refusal that `adapt` answers without another form of the conversation."""
    limit = _MAX_OUTPUT.search(failure.text)
    return limit is not None or refuses_effort(failure) or capabilities.refuses_tools(failure)


def _without_tools(call: ResponsesCall) -> ResponsesCall:
    return msgspec.structs.replace(call, tools=Tools())


def _without_effort(call: ResponsesCall) -> ResponsesCall:
    """Return the call itself if it asks for no effort."""
    options = call.fields.reasoning
    if options is None or options.effort is None:
        return call
    fields = call.fields.copy()
    fields.reasoning = ReasoningOptions(summary=options.summary)
    return msgspec.structs.replace(call, fields=fields)


def _conversation(call: ResponsesCall, plan: ModelPlan) -> list[api.VllmMessage]:
    return plan.with_messages(messages.translate(call.conversation, plan.info))


def _send(
    call: ResponsesCall, plan: ModelPlan, trials: Trials, form: strict_templates.Form, within: int | None = None
) -> NextStep:
    chat = sent = form(_conversation(call, plan))
    fields = _fields(call, plan)
    fields.max_output_tokens = plan.limit_output(within or fields.max_output_tokens)
    first = sent[0]
    if first.role == "system" and isinstance(first.content, str) and _has_instructions(call, plan):
        fields.instructions, sent = first.content, sent[1:]
    rest: dict[str, Any] = {"input": items.from_messages(sent, call.unfinished), "store": False}
    if call.tools.sent:
        rest["tools"] = call.tools.sent
        if call.tools.choice is not None:
            rest["tool_choice"] = call.tools.choice
    window = plan.window
    if window is None or surely_fits(_body(fields, rest), fields.max_output_tokens, window):
        return _tried(call, plan, trials, fields, rest)

    def on_count(count: api.VllmTokenCount) -> NextStep:
        fields.max_output_tokens = lower(fields.max_output_tokens, room_after(count.count, count.max_model_len))
        return _tried(call, plan, trials, fields, rest)

    tools = _counted_tools(call.tools)
    return tokenize.count_conversation(
        plan.info.name, chat, on_count, window=window, tools=tools, chat_template_kwargs=fields.chat_template_kwargs
    )


def _counted_tools(tools: Tools) -> list[api.VllmTool] | None:
    """Return the tools as /tokenize takes them."""
    return [
        api.VllmTool(api.VllmToolFunction(each.name, each.description, each.parameters)) for each in tools.functions()
    ] or None


def _tried(
    call: ResponsesCall, plan: ModelPlan, trials: Trials, fields: ResponsesRequest, rest: Mapping[str, Any]
) -> NextStep:
    request = UpstreamRequest(api.RESPONSES_PATH, _body(fields, rest), whole=not call.stream)
    constraints = trial.constraints(fields, call.tools) if call.stream else b""
    if not constraints:
        return request
    one_token = msgspec.structs.replace(fields, streamed=False, max_output_tokens=1)
    return trials.first(request, plan.info.name, constraints, lambda: _body(one_token, rest))


def _body(fields: ResponsesRequest, rest: Mapping[str, Any]) -> bytes:
    return b"%b,%b" % (api.encode(fields)[:-1], api.encode(rest)[1:])


def _has_instructions(call: ResponsesCall, plan: ModelPlan) -> bool:
    """True if a first system message comes from the client's instructions or from the model, not from `input`."""
    return bool(call.fields.instructions or plan.defaults.system)


def _fields(call: ResponsesCall, plan: ModelPlan) -> ResponsesRequest:
    fields = call.fields.copy()
    fields.model = plan.info.name
    fields.input = fields.instructions = fields.tools = fields.tool_choice = None
    if not call.tools.sent:
        fields.parallel_tool_calls = fields.max_tool_calls = None
    fields.max_tokens = None
    plan.complete(fields, streams_text=False)
    fields.max_output_tokens = plan.limit_output(fields.max_output_tokens or fields.max_tokens)
    fields.max_tokens = fields.truncate_prompt_tokens = fields.stream_interval = None
    if fields.reasoning is not None and capabilities.is_missing("thinking", plan.info):
        fields.reasoning = ReasoningOptions(summary=fields.reasoning.summary)
    return fields


def translator(call: ResponsesCall, timing: Timing, clock: Clock) -> StreamTranslator:
    encrypted = ENCRYPTED in (call.fields.include or ())
    if call.stream:
        return ResponsesStream(call.model, encrypted)
    return WholeAnswer(call.model, read_response, with_encrypted_output if encrypted else None)
