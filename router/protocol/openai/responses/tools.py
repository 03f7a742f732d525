"""The tools of /v1/responses.

vLLM calls functions, custom tools, and the functions of namespaces, which it shows as NAMESPACE__FUNCTION. Clients may
also bring tools as items of `input`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.vllm.request_body import missing_field

BUILT_IN: Final = frozenset(
    {
        *("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"),
        *("file_search", "code_interpreter", "image_generation", "mcp", "tool_search", "programmatic_tool_calling"),
        *("computer", "computer_use", "computer_use_preview", "local_shell", "shell", "apply_patch"),
    }
)
"""Tools that a client only names. No worker runs them, and no model of a pool is trained on them: they are dropped."""
_CALLABLE = ("function", "custom", "namespace")
_ABSENT = msgspec.Raw()
"""One object, because msgspec compares such defaults by identity when it leaves them out."""
_CHOICES = ("none", "auto", "required")


class Format(msgspec.Struct, frozen=True):
    type: str = "text"
    syntax: str | None = None
    definition: str | None = None


class Tool(msgspec.Struct, frozen=True):
    type: str = ""
    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = _ABSENT
    strict: bool | None = None
    format: Format | None = None
    tools: list[Tool] | None = None


class NamedTool(msgspec.Struct, frozen=True):
    type: str = ""
    name: str | None = None
    namespace: str | None = None


class ToolChoice(NamedTool, frozen=True):
    mode: str | None = None
    tools: list[NamedTool] | None = None


class SentTool(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    name: str
    description: str | None = None
    parameters: msgspec.Raw = _ABSENT
    strict: bool | None = None
    tools: list[SentTool] | None = None


class SentChoice(msgspec.Struct, frozen=True):
    type: str
    name: str


class Tools(msgspec.Struct, frozen=True):
    sent: list[SentTool] | None = None
    choice: str | SentChoice | None = None

    def functions(self) -> Iterator[SentTool]:
        """Yield functions of namespaces, too."""
        for tool in self.sent or ():
            yield from tool.tools or (tool,)


Found = Sequence[tuple[str, Sequence[Tool]]]
"""Tools and the paths of their lists in the request."""


def select(found: Found, choice: str | ToolChoice | None) -> Tools:
    """Leave out what no worker can call. Raises BadRequest."""
    if isinstance(choice, str) and choice not in _CHOICES:
        values = ", ".join(f"'{each}'" for each in _CHOICES)
        raise BadRequest(f"Invalid value: '{choice}'. Supported values are: {values}.", param="tool_choice")
    if not any(tools for _, tools in found) and choice not in (None, "none", "auto"):
        raise BadRequest("'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
    sent = [each for path, tools in found for each in _callable(tools, path)]
    if isinstance(choice, ToolChoice):
        sent, named = _by_choice(sent, choice)
    else:
        named = choice
    return Tools(sent, named) if sent else Tools()


def object_or_absent(value: msgspec.Raw, path: str) -> msgspec.Raw:
    """Return a JSON schema. Raises BadRequest, with fewer words than vLLM."""
    start = bytes(value)[:1]
    if start not in (b"", b"{", b"n"):
        raise BadRequest(f"Invalid type for '{path}': expected an object.", param=path, code="invalid_type")
    return _ABSENT if start == b"n" else value


def flat_name(namespace: str | None, name: str) -> str:
    """Return the name under which vLLM shows a function to the model."""
    return f"{namespace}__{name}" if namespace else name


def _callable(tools: Sequence[Tool], path: str) -> Iterator[SentTool]:
    for position, tool in enumerate(tools):
        if tool.type in BUILT_IN:
            continue
        if tool.type not in _CALLABLE:
            kinds = ", ".join(f"'{kind}'" for kind in _CALLABLE)
            raise BadRequest(
                f"Invalid value: '{tool.type}'. Supported values are: {kinds}.", param=f"{path}[{position}].type"
            )
        if not tool.name:
            raise missing_field(f"{path}[{position}].name")
        if tool.type == "namespace":
            yield from _namespace(tool, tool.name, f"{path}[{position}].tools")
        elif tool.type == "custom":
            yield SentTool("custom", tool.name, _described(tool))
        else:
            parameters = object_or_absent(tool.parameters, f"{path}[{position}].parameters")
            yield SentTool("function", tool.name, tool.description, parameters, tool.strict)


def _namespace(tool: Tool, name: str, path: str) -> Iterator[SentTool]:
    """vLLM wants a description, and leaves out all but functions, so custom tools leave the namespace."""
    inner = list(_callable(tool.tools or (), path))
    functions = [each for each in inner if each.type == "function"]
    if functions:
        yield SentTool("namespace", name, tool.description or "", tools=functions)
    yield from (each for each in inner if each.type == "custom")


def _described(tool: Tool) -> str | None:
    """Add the grammar of a custom tool to its description, because vLLM takes no grammar."""
    if tool.format is None or not tool.format.definition:
        return tool.description
    grammar = f"The input follows this {tool.format.syntax or ''} grammar:\n{tool.format.definition}"
    return f"{tool.description}\n\n{grammar}" if tool.description else grammar


def _by_choice(sent: list[SentTool], choice: ToolChoice) -> tuple[list[SentTool], str | SentChoice | None]:
    """vLLM knows no list of allowed tools, so the others are left out."""
    if choice.type == "allowed_tools":
        if choice.mode not in ("auto", "required"):
            raise BadRequest(
                f"Invalid value: '{choice.mode}'. Supported values are: 'auto', 'required'.", param="tool_choice.mode"
            )
        wanted = {flat_name(each.namespace, each.name) for each in choice.tools or () if each.name}
        return [kept for tool in sent if (kept := _within(tool, wanted)) is not None], choice.mode
    if choice.type in ("function", "custom"):
        if not choice.name:
            raise missing_field("tool_choice.name")
        name = flat_name(choice.namespace, choice.name)
        if not any(name in _names(tool) for tool in sent):
            raise BadRequest(f"Tool choice '{choice.name}' not found in 'tools' parameter.", param="tool_choice")
        return sent, SentChoice(choice.type, name)
    if choice.type in BUILT_IN:
        return sent, None
    raise BadRequest(
        f"Invalid value: '{choice.type}'. Supported values are: 'function', 'custom', 'allowed_tools'.",
        param="tool_choice.type",
    )


def _names(tool: SentTool) -> set[str]:
    """A function of a namespace has its own name, too."""
    inner = [each.name for each in tool.tools or ()]
    return {tool.name, *inner, *(flat_name(tool.name, name) for name in inner)}


def _within(tool: SentTool, wanted: set[str]) -> SentTool | None:
    if tool.name in wanted:
        return tool
    inner = [each for each in tool.tools or () if wanted & {each.name, flat_name(tool.name, each.name)}]
    return msgspec.structs.replace(tool, tools=inner) if inner else None
