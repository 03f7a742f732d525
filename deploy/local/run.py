"""`make run`: set up the checkout, then exec `vllama serve`.

Starts one worker per NVIDIA GPU, or two on vLLM's CPU build. MODEL selects the model, PORT the router's port. Without
MODEL, the workers serve SmolLM2-135M-Instruct as `smollm2:135m`, and another serves all-MiniLM-L6-v2 for embeddings as
`all-minilm`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.local.gpus import find_gpus
from deploy.local.package_managers import ROOT
from deploy.local.setup import MINILM, SMOLLM2, steps_for, vllm_venv
from deploy.local.step_runner import SetupError, run_step, setup_lock

CHAT_WORKER = "smollm2"
CHAT_MODEL = "smollm2:135m"
EMBEDDING_MODEL = "all-minilm"
CPU_WORKERS = 2
CPU_CONTEXT = 4096
"""Context length of SmolLM2 on a CPU, Ollama's default. Its answers often run on until the context is full; the 8192
that it supports would take minutes."""


@dataclass(frozen=True)
class Launch:
    """A command to exec, and the parts of the set-up that it needs."""

    parts: tuple[str, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """Defaults for environment variables."""


def plan_launch(gpus: Sequence[str], cores: int, model: str, port: str, extra: Sequence[str] = ()) -> Launch:
    """Return the command for a machine with these GPUs and cores. `model` and `port` are "" for the defaults.

    `extra` arguments for `vllama serve` follow ours for the model and override them.
    """
    kind = "cuda" if gpus else "cpu"
    env = {"VLLAMA_VLLM": str(vllm_venv(kind) / "bin" / "vllm"), "VLLAMA_STATE_DIR": str(ROOT / ".state")}
    argv = [str(ROOT / ".venv" / "bin" / "vllama"), "serve", "--port", port or "11434"]
    if model:
        argv += ["--model", model]
    else:
        argv += ["--model", str(SMOLLM2), "--name", CHAT_WORKER, "--served-model-name", CHAT_MODEL]
        env["HF_HUB_OFFLINE"] = "1"  # the model is local: do not depend on a hub
    if gpus:
        argv += ["--replicas", str(len(gpus)), "--gpus", ",".join(gpus)]
        if not model:
            argv += ["--gpu-memory-utilization", "0.8"]  # the first GPU is shared with the embedding worker
    else:
        argv += ["--replicas", str(CPU_WORKERS), "--max-num-seqs", "8"]
        if not model:
            argv += ["--max-model-len", str(CPU_CONTEXT)]
        # By default both workers bind their threads to the same cores and leave the others idle.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        env["OMP_NUM_THREADS"] = str(max(1, cores // CPU_WORKERS))
    argv += extra
    if not model:
        argv += ["--and", *embedding_arguments(gpus)]
    parts = ("dev", "vllm") if model else ("dev", "vllm", "smollm2", "minilm")
    return Launch(parts, tuple(argv), env)


def embedding_arguments(gpus: Sequence[str]) -> list[str]:
    """Return the arguments of the embedding worker, which shares the first GPU."""
    name = EMBEDDING_MODEL
    arguments = ["--model", str(MINILM), "--name", name, "--served-model-name", name, "--dtype", "float32"]
    if gpus:
        return [*arguments, "--gpus", gpus[0], "--gpu-memory-utilization", "0.1"]
    return [*arguments, "--max-num-seqs", "8"]


def main() -> None:
    gpus = find_gpus()
    launch = plan_launch(
        gpus, os.cpu_count() or 1, os.environ.get("MODEL", ""), os.environ.get("PORT", ""), sys.argv[1:]
    )
    try:
        with setup_lock(ROOT / ".state" / "setup.lock"):
            for make_step in steps_for(launch.parts, "cuda" if gpus else "cpu"):
                run_step(make_step())
    except SetupError as failure:
        sys.exit(f"vllama: {failure}")
    except OSError as error:
        sys.exit(f"vllama: set-up failed: {error}")
    except KeyboardInterrupt:
        sys.exit("vllama: interrupted; run it again to continue")
    sys.stderr.flush()
    os.execve(launch.argv[0], launch.argv, {**launch.env, **os.environ})


if __name__ == "__main__":
    main()
