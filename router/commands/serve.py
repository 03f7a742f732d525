"""`vllama serve`: the router, and a worker for every --model."""

from __future__ import annotations

import sys

import click

from config.routing import RoutingError
from config.settings import RouterSettings, WorkerSettings
from router.commands.common import PASS_ON, Wrong, export, read, warn_of_unknown
from router.console import Console
from router.launch import CannotLaunch
from router.serve import Workers
from router.serve import serve as run_serve
from workers.launch import ENGINES


@click.command("serve", context_settings=PASS_ON, short_help="Run the router, and a worker for every --model.")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Also run a worker for this model. Repeatable.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Name of the worker, one for each --model.")
@click.option("--host", help="Address to listen on (127.0.0.1, or what OLLAMA_HOST says).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (11434, or what OLLAMA_HOST says).")
@click.option("--vllm-port", type=click.IntRange(1, 65535), help="Port of the first vLLM; others follow (8100).")
@click.option("--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="Workers for each model.")
@click.option("--gpus", default="", metavar="LIST", help="GPUs such as 0,1,2,3, dealt out evenly to the workers.")
@click.option("--routing", "routing_file", metavar="FILE", help="Routing file (see: vllama check).")
@click.option("--processes", type=click.IntRange(1, 64), help="Router processes (1).")
@click.option("--redis-url", metavar="URL", help="A Redis instead of the embedded registry. Or set REDIS_URL.")
@click.option("--allow-anonymous", is_flag=True, help="Listen on a public address without API keys.")
@click.option("--engine", type=click.Choice(ENGINES), default="vllm", help="simulated: no model and no GPU, for tests.")
@click.argument("vllm_args", nargs=-1, type=click.UNPROCESSED, metavar="[VLLM FLAGS]...")
def command(
    models: tuple[str, ...],
    names: tuple[str, ...],
    host: str | None,
    port: int | None,
    vllm_port: int | None,
    replicas: int,
    gpus: str,
    routing_file: str | None,
    processes: int | None,
    redis_url: str | None,
    allow_anonymous: bool,
    engine: str,
    vllm_args: tuple[str, ...],
) -> None:
    """Run the router, and a worker for every --model.

    Any other flag goes to vLLM, such as --gpu-memory-utilization 0.3 or --max-model-len 8192.

    vLLM's parsers for tool calls and thinking are chosen by the model's own files; give --tool-call-parser or
    --reasoning-parser to choose others, or none to leave one off.
    """
    if vllm_args and not models:
        raise click.UsageError(
            f"{vllm_args[0]!r} is no option of serve, and there is no --model whose vLLM would get it"
        )
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
    warn_of_unknown()
    settings = read(RouterSettings)
    worker_settings = read(WorkerSettings)
    workers = Workers(
        models=models,
        names=names,
        replicas=replicas,
        first_port=worker_settings.port,
        host=worker_settings.advertise,
        gpus=[gpu.strip() for gpu in gpus.split(",") if gpu.strip()],
        engine=engine,
        args=vllm_args,
    )
    try:
        code = run_serve(settings, workers, Console(sys.stdout, sys.stderr))
    except (CannotLaunch, RoutingError) as error:
        raise Wrong(str(error)) from error
    sys.exit(code)
