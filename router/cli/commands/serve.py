"""`vllama serve`: run the router and workers."""

from __future__ import annotations

import sys

import click

from vllama_pool.config.routing.table import RoutingError
from vllama_pool.config.settings import RouterSettings, WorkerSettings
from vllama_pool.router.cli.commands.common import CommandFailed, export, read, warn_about_variables
from vllama_pool.router.cli.commands.shared_options import PASS_UNKNOWN_OPTIONS, redis_url_option
from vllama_pool.router.cli.commands.worker_groups import (
    CommandWithGroups,
    later_groups,
    worker_group,
    worker_group_options,
)
from vllama_pool.router.supervisor.checks import CannotLaunch
from vllama_pool.router.supervisor.console import Console
from vllama_pool.router.supervisor.serve import serve as run_serve


@click.command(
    "serve",
    cls=CommandWithGroups,
    context_settings=PASS_UNKNOWN_OPTIONS,
    short_help="Run the router, and a worker for each --model.",
)
@worker_group_options
@click.option("--host", metavar="ADDRESS", help="Address to listen on (default: OLLAMA_HOST, else 127.0.0.1).")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 for any free port (default: OLLAMA_HOST, else 11434).",
)
@click.option(
    "--vllm-port",
    type=click.IntRange(1, 65535),
    help="Port of the first worker's vLLM; other workers use the next ports (default: 8100).",
)
@click.option(
    "--routing",
    "routing_file",
    metavar="FILE",
    help="Routing file: names, options and static workers. vllama check validates it.",
)
@click.option("--processes", type=click.IntRange(1, 64), help="Number of router processes (default: 1).")
@redis_url_option
@click.option("--allow-anonymous", is_flag=True, help="Accept requests without an API key, also on a public address.")
@click.pass_context
def command(
    ctx: click.Context,
    models: tuple[str, ...],
    names: tuple[str, ...],
    replicas: int,
    gpus: str,
    tags: tuple[str, ...],
    engine: str,
    vllm_args: tuple[str, ...],
    host: str | None,
    port: int | None,
    vllm_port: int | None,
    routing_file: str | None,
    processes: int | None,
    redis_url: str | None,
    allow_anonymous: bool,
) -> None:
    """Run the router, and a worker for each --model.

    A worker runs one vLLM. Flags that are not listed below are passed to vLLM, such as --max-model-len 8192.

    vLLM's parsers for tool calls and thinking are chosen from the model's files. --tool-call-parser and
    --reasoning-parser override them; "none" disables one.

    --and begins a group of models with its own --name, --replicas, --gpus, --tag, --engine and vLLM flags:

    \b
    vllama serve --model A --max-model-len 8192 --and --model B --max-num-seqs 8
    """
    groups = [worker_group(models, names, replicas, gpus, tags, engine, vllm_args), *later_groups(ctx)]
    export(
        {
            "VLLAMA_HOST": host,
            "VLLAMA_PORT": port,
            "VLLAMA_WORKER_PORT": vllm_port,
            "VLLAMA_ROUTING_FILE": routing_file,
            "VLLAMA_PROCESSES": processes,
            "VLLAMA_REDIS_URL": redis_url,
            "VLLAMA_ALLOW_ANONYMOUS": "1" if allow_anonymous else None,
        }
    )
    warn_about_variables()
    settings = read(RouterSettings)
    worker_settings = read(WorkerSettings)
    try:
        code = run_serve(
            settings,
            groups,
            Console(sys.stdout, sys.stderr),
            first_worker_port=worker_settings.port,
            worker_host=worker_settings.advertise,
        )
    except (CannotLaunch, RoutingError) as error:
        raise CommandFailed(str(error)) from error
    sys.exit(code)
