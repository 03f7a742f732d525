"""POST /v1/chat/completions: checks, and the request to vLLM (R027, R114)."""

from __future__ import annotations

from collections.abc import Sequence

from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest, Refused
from vllama_pool.router.protocol import capabilities
from vllama_pool.router.protocol.openai import messages, requests
from vllama_pool.router.protocol.openai.chunks import ChunkStream
from vllama_pool.router.protocol.openai.hiding_stream import HidingStream
from vllama_pool.router.protocol.openai.requests import ChatCompletionRequest, NamedTool, Tool
from vllama_pool.router.protocol.operation import Clock, NextStep, StreamTranslator, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, limits, strict_templates, tokenize
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.router.protocol.vllm.model_plan import ModelPlan
from vllama_pool.router.protocol.vllm.request_body import missing_field
from vllama_pool.router.protocol.vllm.resumable import WITH_IDS, has_media, of_fields
from vllama_pool.router.protocol.vllm.thinking_refusals import refuses_effort
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer, both_reasonings, read_choices
from vllama_pool.router.protocol.vllm.window import lower, room_after, surely_fits
from vllama_pool.workers.registry.record import ModelInfo

NO_TEMPLATE = (
    'chat needs a chat template and "{model}" has none: use /v1/completions, or start vLLM with --chat-template'
)
_CHOICES = ("none", "auto", "required")


def decode(body: bytes, max_choices: int) -> ChatCompletionRequest:
    """Raises BadRequest."""
    request = requests.CHAT.decode(body)
    requests.require_model(request.model)
    requests.refuse_server_fields(body)
    requests.check_choices("n", request.n, max_choices)
    for name in ("max_tokens", "max_completion_tokens"):
        tokens = getattr(request, name)
        if tokens is not None and tokens < 1:
            raise requests.below_minimum(name, tokens)
    if request.messages is None:
        raise missing_field("messages")
    messages.check(request.messages)
    requests.check_template_kwargs(request.chat_template_kwargs)
    _check_tools(request)
    _check_effort(request)
    return request


def _check_tools(request: ChatCompletionRequest) -> None:
    choice = request.tool_choice
    if not request.tools:
        request.tools = None
        if choice not in (None, "none", "auto"):
            raise BadRequest("'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
        request.tool_choice = request.parallel_tool_calls = None
        return
    check_functions(request.tools)
    names = {tool.function.name for tool in request.tools if tool.function}
    if isinstance(choice, NamedTool):
        if choice.type != "function":
            raise BadRequest(
                f"Invalid value: '{choice.type}'. Supported values are: 'function'.", param="tool_choice.type"
            )
        if choice.function is None:
            raise missing_field("tool_choice.function")
        if choice.function.name not in names:
            raise BadRequest(
                f"Tool choice '{choice.function.name}' not found in 'tools' parameter.", param="tool_choice"
            )
    elif choice is not None and choice not in _CHOICES:
        raise BadRequest(
            f"Invalid value: '{choice}'. Supported values are: 'none', 'auto', 'required'.", param="tool_choice"
        )


def check_functions(tools: Sequence[Tool]) -> None:
    """Raises BadRequest."""
    for position, tool in enumerate(tools):
        if tool.type != "function":
            raise BadRequest(
                f"Invalid value: '{tool.type}'. Supported values are: 'function'.", param=f"tools[{position}].type"
            )
        if tool.function is None:
            raise missing_field(f"tools[{position}].function")


def _check_effort(request: ChatCompletionRequest) -> None:
    """Accept `reasoning.effort`, as Ollama does, besides `reasoning_effort`."""
    if request.reasoning is not None:
        request.reasoning_effort = request.reasoning_effort or request.reasoning.effort
        request.reasoning = None
    effort = request.reasoning_effort
    if effort is not None and effort not in requests.EFFORTS:
        values = ", ".join(f"'{value}'" for value in requests.EFFORTS)
        raise BadRequest(f"Invalid value: '{effort}'. Supported values are: {values}.", param="reasoning_effort")
    if effort == "ultra":
        request.reasoning_effort = "max"


def check(request: ChatCompletionRequest, info: ModelInfo, defaults: Defaults = NO_DEFAULTS) -> None:
    """Raises BadRequest if the model lacks what the request needs."""
    capabilities.refuse_image_generation(info)
    capabilities.require_completion("chat", request.model, info)
    if request.tools and request.tool_choice != "none":
        capabilities.require_tools(request.model, info, defaults)
    capabilities.require(messages.required_capabilities(request.messages or ()), request.model, info)
    if not info.has_template:
        raise BadRequest(NO_TEMPLATE.format(model=request.model))


def prepare(request: ChatCompletionRequest, plan: ModelPlan) -> NextStep:
    return _send_within(_upstream(request, plan), _messages(request, plan), plan)


def adapt(request: ChatCompletionRequest, plan: ModelPlan, *refusals: AttemptFailed) -> NextStep | None:
    """Change what the template refuses, apply limits that the refusals name, and leave out an effort that is refused,
    and tools that the model ignores.

    Nothing is shortened.
    """
    media = messages.required_capabilities(request.messages or ())
    capabilities.explain_refusal(refusals[-1], request.model, media, plan.defaults)
    explain_context(refusals[-1], "messages")
    sent = _messages(request, plan, refusals)
    others = [each for each in refusals if not (refuses_effort(each) or capabilities.refuses_tools(each))]
    form = strict_templates.form_after(others, sent, plan.info)
    if form is None:
        return None
    upstream = _upstream(request, plan, refusals)
    if any(map(refuses_effort, refusals)):
        upstream.reasoning_effort = None
    within = limits.within_limits(upstream, [each for each in others if not limits.is_stop_limit(each)])
    has_less = upstream.reasoning_effort != request.reasoning_effort or any(map(capabilities.refuses_tools, refusals))
    if within is None and form is strict_templates.unchanged and not has_less:
        return None
    return _send_within(within or upstream, form(sent), plan)


def explain_context(failure: AttemptFailed, param: str) -> None:
    """Raises Refused with OpenAI's code and vLLM's own text, which clients search, if the prompt is too long."""
    if failure.text == CONTEXT_EXCEEDED:
        text = failure.original or failure.text
        raise Refused(text, status=400, param=param, code="context_length_exceeded")


def _messages(
    request: ChatCompletionRequest, plan: ModelPlan, refusals: Sequence[AttemptFailed] = ()
) -> list[api.VllmMessage]:
    sent = plan.with_messages(messages.translate(request.messages or (), plan.info))
    if plan.defaults.ignores_tools and plan.drops_tools(refusals):
        return strict_templates.without_tools(sent)
    return sent


def _upstream(
    request: ChatCompletionRequest, plan: ModelPlan, refusals: Sequence[AttemptFailed] = ()
) -> ChatCompletionRequest:
    upstream = request.copy()
    upstream.messages = None
    upstream.model = plan.info.name
    if upstream.stream:
        upstream.ask_usage()
    else:
        upstream.stream_options = None
    if upstream.reasoning_effort is not None and capabilities.is_missing("thinking", plan.info):
        upstream.reasoning_effort = None
    if upstream.tools and plan.drops_tools(refusals):
        upstream.tools = upstream.tool_choice = upstream.parallel_tool_calls = None
    plan.complete(upstream, streams_text=upstream.stream and not upstream.tools)
    if upstream.max_completion_tokens is not None:
        upstream.max_tokens = None
        upstream.max_completion_tokens = plan.limit_output(upstream.max_completion_tokens)
    else:
        upstream.max_tokens = plan.limit_output(upstream.max_tokens)
    if plan.output is not None:
        upstream.limit_minimum(plan.output)
    return upstream


def _send_within(upstream: ChatCompletionRequest, sent: Sequence[api.VllmMessage], plan: ModelPlan) -> NextStep:
    """Send the request. If it may exceed a context smaller than the worker's, count the prompt first."""
    step, window = _send(upstream, sent, plan), plan.window
    if window is None or surely_fits(step.body, upstream.max_completion_tokens or upstream.max_tokens, window):
        return step
    return _counted(upstream, sent, plan, window)


def _counted(
    upstream: ChatCompletionRequest, sent: Sequence[api.VllmMessage], plan: ModelPlan, window: int
) -> NextStep:
    def on_count(count: api.VllmTokenCount) -> NextStep:
        limited = upstream.copy()
        room = room_after(count.count, count.max_model_len)
        if limited.max_completion_tokens is not None:
            limited.max_completion_tokens = min(limited.max_completion_tokens, room)
        else:
            limited.max_tokens = lower(limited.max_tokens, room)
        limited.limit_minimum(room)
        return _send(limited, sent, plan)

    return tokenize.count_conversation(
        plan.info.name,
        sent,
        on_count,
        window=window,
        tools=upstream.tools,
        chat_template_kwargs=upstream.chat_template_kwargs,
        continue_final_message=upstream.continue_final_message,
        add_generation_prompt=False if upstream.continue_final_message else upstream.add_generation_prompt,
    )


def _send(upstream: ChatCompletionRequest, sent: Sequence[api.VllmMessage], plan: ModelPlan) -> UpstreamRequest:
    fields = api.encode(upstream)
    resume = None
    if upstream.stream and plan.resumes and not has_media(sent, plan.info):
        resume = of_fields(upstream, fields, plan.info)
    more = WITH_IDS if resume is not None else b""
    body = b'%b%b,"messages":%b}' % (fields[:-1], more, api.encode(sent))
    hiding = None if resume is None else hiding_translator
    return UpstreamRequest(api.CHAT_PATH, body, hiding, whole=not upstream.stream, resume=resume)


def translator(request: ChatCompletionRequest, timing: Timing, clock: Clock) -> StreamTranslator:
    if request.stream:
        return ChunkStream(request.model, request.n or 1, request.includes_usage)
    return WholeAnswer(request.model, read_choices, both_reasonings)


def hiding_translator(request: ChatCompletionRequest, timing: Timing, clock: Clock) -> StreamTranslator:
    """Of a stream that can be continued."""
    return HidingStream(request.model, 1, request.includes_usage)
