"""Settings and vLLM's command line, with its other flags ignored."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vllama_pool.workers.model.files import ModelFiles
from vllama_pool.workers.simulated.checks import MAX_STOP_STRINGS
from vllama_pool.workers.simulated.engine import Pace
from vllama_pool.workers.simulated.faults import Fault, parse
from vllama_pool.workers.simulated.template import Strictness

Death = Literal["kill", "abort", "exit"]
"""Ends of a process by a `die` fault: with the exit code of a killed program, by SIGABRT, or with exit code 1."""

VERSION = "0.32.0+simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Rates in tokens per second, times in seconds."""

    model: str = "simulated"
    """The first served name."""
    aliases: tuple[str, ...] = ()
    root: str = ""
    """"" for the model's name."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 lets the kernel choose."""
    slots: int = 8
    tokens_per_second: float = 40.0
    """Per sequence."""
    total_tokens_per_second: float = 0.0
    """For all sequences; 0 for no limit."""
    speed: float = 1.0
    ttft: float = 0.05
    prefill_tokens_per_second: float = 0.0
    answer_tokens: int = 64
    """Tokens."""
    max_model_len: int = 8192
    default_max_tokens: int | None = None
    """For chats without max_tokens: generation_config's max_new_tokens."""
    max_max_tokens: int | None = None
    """For every request: max_new_tokens of a flag, which is a limit."""
    embedding: bool = False
    dimensions: int = 64
    transcription: bool = False
    """Serve /v1/audio/transcriptions too."""
    chat_template: bool = True
    strict_template: Strictness = ""
    tool_calls: bool = False
    """Parser and automatic choice."""
    tool_parser: bool = False
    reasoning: bool = False
    max_num_queued_reqs: int | None = None
    max_stop_strings: int = MAX_STOP_STRINGS
    api_keys: tuple[str, ...] = ()
    per_request_metrics: bool = False
    prompt_tokens_details: bool = False
    load_tracking: bool = False
    dev_mode: bool = False
    shutdown_timeout: float = 0.0
    """For running requests after SIGTERM."""
    keep_alive: float = 5.0
    """For idle connections."""
    startup: float = 0.0
    engine_process: bool = False
    faults: tuple[Fault, ...] = ()
    death: Death = "kill"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.model, *self.aliases)

    @property
    def pace(self) -> Pace:
        return Pace(
            slots=self.slots,
            tokens_per_second=self.tokens_per_second * self.speed,
            total_tokens_per_second=self.total_tokens_per_second * self.speed,
            ttft=self.ttft / self.speed,
            prefill_tokens_per_second=self.prefill_tokens_per_second * self.speed,
        )


def parse_arguments(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[Options, list[str]]:
    """Return the options and the ignored arguments. Exits for a bad value."""
    rest = list(argv)
    if rest[:1] == ["serve"]:
        rest.pop(0)
    positional = rest.pop(0) if rest and not rest[0].startswith("-") else None
    args, ignored = _parser().parse_known_args(rest)
    model = args.model or positional or "simulated"
    names = args.served_model_name or [model]
    default_max_tokens, max_max_tokens = _generation_limits(model, args)
    options = Options(
        model=names[0],
        aliases=tuple(names[1:]),
        root=model,
        host=args.host,
        port=args.port,
        slots=args.max_num_seqs,
        tokens_per_second=args.tokens_per_second,
        total_tokens_per_second=args.total_tokens_per_second,
        speed=args.speed,
        ttft=args.ttft,
        prefill_tokens_per_second=args.prefill_tokens_per_second,
        answer_tokens=args.answer_tokens,
        max_model_len=args.max_model_len,
        default_max_tokens=default_max_tokens,
        max_max_tokens=max_max_tokens,
        embedding=args.runner == "pooling",
        dimensions=args.dimensions,
        transcription=args.transcription,
        chat_template=not args.no_chat_template,
        strict_template=args.strict_template,
        tool_calls=args.enable_auto_tool_choice and args.tool_call_parser is not None,
        tool_parser=args.tool_call_parser is not None,
        reasoning=args.reasoning_parser is not None,
        max_num_queued_reqs=args.max_num_queued_reqs,
        max_stop_strings=int(environment.get("VLLM_MAX_STOP_STRINGS", MAX_STOP_STRINGS)),
        api_keys=tuple(args.api_key or filter(None, [environment.get("VLLM_API_KEY")])),
        per_request_metrics=args.enable_per_request_metrics,
        prompt_tokens_details=args.enable_prompt_tokens_details,
        load_tracking=args.enable_server_load_tracking,
        dev_mode=environment.get("VLLM_SERVER_DEV_MODE") == "1",
        shutdown_timeout=args.shutdown_timeout,
        keep_alive=float(environment.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5")),
        startup=args.startup,
        engine_process=args.engine_process,
        faults=tuple(fault for text in args.fault for fault in text),
        death=args.death,
    )
    return options, ignored


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vllama_pool.workers.simulated",
        description="A simulated vLLM worker: no model, no GPU. Its answers repeat the question and count.",
        allow_abbrev=False,
    )
    vllm = parser.add_argument_group("flags of vLLM (others are accepted and ignored)")
    vllm.add_argument("--model")
    vllm.add_argument("--served-model-name", nargs="+", metavar="NAME")
    vllm.add_argument("--host", default="127.0.0.1")
    vllm.add_argument("--port", type=int, default=8000, help="0: the kernel chooses")
    vllm.add_argument("--max-num-seqs", "--slots", type=_whole, default=8, help="requests that run at once")
    vllm.add_argument("--max-model-len", type=_whole, default=8192)
    vllm.add_argument("--max-num-queued-reqs", type=_whole)
    vllm.add_argument("--generation-config", default="auto")
    vllm.add_argument("--override-generation-config", default={}, type=json.loads, metavar="JSON")
    vllm.add_argument("--runner", choices=("auto", "generate", "pooling"), default="auto")
    vllm.add_argument("--enable-auto-tool-choice", action="store_true")
    vllm.add_argument("--tool-call-parser")
    vllm.add_argument("--reasoning-parser")
    vllm.add_argument("--enable-per-request-metrics", action="store_true")
    vllm.add_argument("--enable-prompt-tokens-details", action="store_true")
    vllm.add_argument("--enable-server-load-tracking", action="store_true")
    vllm.add_argument("--api-key", nargs="+")
    vllm.add_argument("--shutdown-timeout", type=float, default=0.0)
    own = parser.add_argument_group("the simulation")
    own.add_argument("--tokens-per-second", type=_positive, default=40.0, help="of each running request")
    own.add_argument("--total-tokens-per-second", type=float, default=0.0, help="bound on all together")
    own.add_argument("--speed", type=_positive, default=1.0, help="multiplies both rates")
    own.add_argument("--ttft", type=float, default=0.05, help="seconds of prefill")
    own.add_argument("--prefill-tokens-per-second", type=float, default=0.0)
    own.add_argument("--answer-tokens", type=_whole, default=64, help="length of an answer")
    own.add_argument("--dimensions", type=_whole, default=64, help="of an embedding")
    own.add_argument("--transcription", action="store_true", help="transcribe audio")
    own.add_argument("--no-chat-template", action="store_true")
    own.add_argument("--strict-template", choices=("system-first", "no-system"), default="", help="refuse other roles")
    own.add_argument("--startup", type=float, default=0.0, help="seconds before it listens")
    own.add_argument("--engine-process", action="store_true", help="start a child process, as vLLM does")
    own.add_argument("--fault", action="append", default=[], type=_fault, metavar="JSON", help="see faults.py")
    own.add_argument("--death", choices=("kill", "abort", "exit"), default="kill", help="how a die fault ends it")
    return parser


def _generation_limits(model: str, args: argparse.Namespace) -> tuple[int | None, int | None]:
    """Return max_new_tokens as the default, and as the limit that only flags set."""
    source = args.generation_config
    folder = Path(model if source == "auto" else source)
    read = {} if source == "vllm" else ModelFiles((folder,)).json("generation_config.json")
    chosen = {**read, **args.override_generation_config}.get("max_new_tokens")
    limit = args.override_generation_config.get("max_new_tokens") if source in ("auto", "vllm") else chosen
    return chosen, limit


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _fault(text: str) -> list[Fault]:
    try:
        return parse(text)
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise argparse.ArgumentTypeError(f"not a fault: {error}") from error
