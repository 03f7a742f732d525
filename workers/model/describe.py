"""Describe a worker's models from its running server and the model's files.

Call it once vLLM is ready and repositories are downloaded. Fields of missing or broken files keep their defaults.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vllama_pool.workers.model import safetensors
from vllama_pool.workers.model.config_json import Config, media, model_info, number, quantization, text_config
from vllama_pool.workers.model.facts import chat_templates, has_mistral_tokenizer
from vllama_pool.workers.model.files import ModelFiles, locate
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.vllm.flags import Flags
from vllama_pool.workers.vllm.probe import ServedModel, model_infos

MAX_LICENSE = 32 << 10
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Observed:
    models: tuple[ServedModel, ...]
    tasks: tuple[str, ...] = ("completion",)
    """Ollama's capabilities, with those detected on the server."""
    templated: bool | None = None
    """None if untested."""
    undetected: tuple[str, ...] = ()
    """Capabilities that the server may have, too."""


def describe(model: str, flags: Flags, observed: Observed, env: Mapping[str, str]) -> tuple[ModelInfo, ...]:
    """Return the base first. Reads files; call it in a thread."""
    infos = model_infos(observed.models, observed.tasks, observed.undetected)
    files = locate(model, env, revision=flags.value("--revision") or "main", download_dir=flags.value("--download-dir"))
    if files is None or not infos:
        return _unread(infos, flags, observed)
    roots = {served.name: served.root for served in observed.models}
    base = complete(infos[0], files, flags, observed)
    adapters = [_adapter(info, base, roots.get(info.name, ""), env) for info in infos if info.parent]
    others = [info for info in infos[1:] if not info.parent]
    return (base, *others, *adapters)


def complete(info: ModelInfo, files: ModelFiles, flags: Flags, observed: Observed) -> ModelInfo:
    """Add the fields that the files provide."""
    config = files.json("config.json")
    text = text_config(config)
    tensors = {name: tensor for weights in files.weights for name, tensor in weights.tensors.items()}
    stored = safetensors.main_dtype(tensors) or _DTYPES.get(str(config.get("dtype", config.get("torch_dtype"))), "")
    label, bits = quantization(config, stored, flags.value("--quantization", "-q"))
    templates = chat_templates(files, flags)
    has_template = bool(templates) or has_mistral_tokenizer(files)
    return msgspec.structs.replace(
        info,
        digest=files.digest(),
        size=files.size,
        modified_at=files.modified_at,
        format=_FORMATS.get(files.weight_files[0].suffix, "") if files.weight_files else "",
        architecture=str(config.get("model_type", "")),
        parameter_count=safetensors.count_parameters(tensors, bits),
        quantization=label,
        context_length=info.context_length or number(text, "max_position_embeddings", "n_positions"),
        embedding_length=number(text, "hidden_size", "n_embd", "d_model"),
        capabilities=capabilities(observed.tasks, config, templates, flags),
        undetected=undetected(observed, config, templates, flags),
        has_template=has_template if observed.templated is None else observed.templated,
        template=templates[0] if templates else "",
        defaults=sampling_defaults(files, flags),
        license=license_of(files),
        metadata=model_info(config, vision="vision" in media(config, flags)),
    )


def slim(infos: tuple[ModelInfo, ...], limit: int) -> tuple[ModelInfo, ...]:
    """Drop texts until all fit into `limit` bytes: adapters', then licences, then templates."""
    for adapters_only, fields in ((True, ("license", "template")), (False, ("license",)), (False, ("template",))):
        if len(msgspec.json.encode(infos)) <= limit:
            break
        infos = tuple(
            msgspec.structs.replace(info, **dict.fromkeys(fields, "")) if info.parent or not adapters_only else info
            for info in infos
        )
    return infos


def capabilities(tasks: Sequence[str], config: Config, templates: Sequence[str], flags: Flags) -> tuple[str, ...]:
    """Return Ollama's capabilities.

    Vision and audio come from config.json, or vision from `tasks` without it. Tools and thinking need `tasks` or a
    parser flag, and a known template must mention them.
    """
    if "completion" not in tasks:
        return tuple(tasks)
    found = ["completion", *(media(config, flags) if config else [task for task in tasks if task == "vision"])]
    tools = "tools" in tasks or (flags.on("--enable-auto-tool-choice") and flags.value("--tool-call-parser"))
    thinking = "thinking" in tasks or flags.value("--reasoning-parser")
    if tools and (not templates or any(re.search(r"\btools\b", template) for template in templates)):
        found.append("tools")
    if thinking and (not templates or any(re.search(_THINKING, template) for template in templates)):
        found.append("thinking")
    return tuple(found)


def undetected(observed: Observed, config: Config, templates: Sequence[str], flags: Flags) -> tuple[str, ...]:
    """Return what would be capabilities if they were detected."""
    known = capabilities(observed.tasks, config, templates, flags)
    possible = capabilities((*observed.tasks, *observed.undetected), config, templates, flags)
    return tuple(name for name in possible if name not in known and name in observed.undetected)


def sampling_defaults(files: ModelFiles, flags: Flags) -> dict[str, float | int | list[str]]:
    """By Ollama's option names."""
    source = flags.value("--generation-config") or "auto"
    chosen: Config = {}
    if source == "auto":
        chosen = files.json("generation_config.json")
    elif source != "vllm":
        chosen = ModelFiles((Path(source),)).json("generation_config.json")
    chosen = {**chosen, **flags.object("--override-generation-config")}
    return {
        ours: value
        for theirs, ours in _OPTIONS.items()
        if isinstance(value := chosen.get(theirs), int | float) and not isinstance(value, bool)
    }


def license_of(files: ModelFiles) -> str:
    """Text of the licence, else its id from the README's front matter, else ""."""
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"):
        if text := files.text(name).strip():
            return text.encode()[:MAX_LICENSE].decode("utf-8", "ignore")
    readme = files.text("README.md")
    if not readme.startswith("---\n"):
        return ""
    front = readme[4:].partition("\n---")[0]
    found: dict[str, str] = dict(re.findall(r"^(license(?:_name)?):[ \t]*[\"']?([\w.+-]+)", front, re.MULTILINE))
    license_id = found.get("license", "")
    return found.get("license_name", license_id) if license_id in ("", "other") else license_id


_THINKING = r"enable_thinking|</?think|reasoning|thinking"
_FORMATS = {".safetensors": "safetensors", ".bin": "pytorch", ".gguf": "gguf"}
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_OPTIONS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "max_new_tokens": "num_predict",
}


def _unread(infos: tuple[ModelInfo, ...], flags: Flags, observed: Observed) -> tuple[ModelInfo, ...]:
    has_template = True if observed.templated is None else observed.templated
    able, unknown = capabilities(observed.tasks, {}, (), flags), undetected(observed, {}, (), flags)
    return tuple(
        msgspec.structs.replace(info, has_template=has_template, capabilities=able, undetected=unknown)
        for info in infos
    )


def _adapter(info: ModelInfo, base: ModelInfo, root: str, env: Mapping[str, str]) -> ModelInfo:
    """Size and digest cover the base and the adapter."""
    files = locate(root, env) if root else None
    own = files.digest() if files else ""
    return msgspec.structs.replace(
        base,
        name=info.name,
        aliases=info.aliases,
        parent=info.parent,
        context_length=info.context_length,
        size=base.size + (files.size if files else 0),
        modified_at=max(base.modified_at, files.modified_at if files else 0.0),
        digest=hashlib.sha256(f"{base.digest} + {own}".encode()).hexdigest() if own and base.digest else "",
    )
