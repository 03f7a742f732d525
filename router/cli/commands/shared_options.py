"""Options of both `vllama serve` and `vllama worker`."""

from __future__ import annotations

import click

from vllama_pool.workers.agent.command_line import ENGINES

PASS_UNKNOWN_OPTIONS = {"ignore_unknown_options": True, "help_option_names": ["--help"]}
"""Passes options that are not ours to vLLM."""

engine_option = click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="vllm",
    show_default=True,
    help="simulated is for tests: it needs no model and no GPU.",
)
redis_url_option = click.option(
    "--redis-url",
    metavar="URL",
    help="Redis that holds the registry (default: REDIS_URL, else an embedded Valkey). Other users of the machine can "
    "read a password in a command line, so set REDIS_URL if the URL has one.",
)
vllm_flags = click.argument("vllm_args", nargs=-1, type=click.UNPROCESSED, metavar="[VLLM FLAGS]...")
