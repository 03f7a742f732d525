"""`make run`: set up what is needed, then become `vllama serve`.

Without a GPU: two workers with vLLM's CPU build. With NVIDIA GPUs: one worker on each. MODEL names the model. If it is
not set, that is SmolLM2-135M-Instruct as `smollm2:135m`, and one more worker embeds: all-MiniLM-L6-v2 as `all-minilm`.
PORT is the router's port.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.local.gpus import find_gpus
from deploy.local.installers import ROOT
from deploy.local.setup import MINILM, SMOLLM2, environment, plan
from deploy.local.steps import Failed, ensure, exclusively

NAME = "smollm2"
SERVED_AS = "smollm2:135m"
EMBEDS = "all-minilm"
CPU_WORKERS = 2
CPU_CONTEXT = 4096
"""Tokens of context for SmolLM2 on a CPU, as many as Ollama gives by default. The model would take 8192, but rarely
stops by itself, and an answer that fills the context should not take minutes."""


@dataclass(frozen=True)
class Launch:
    """What is run in the end."""

    parts: tuple[str, ...]
    """What must be set up first."""
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """Variables to set where they are not set yet."""


def choose(gpus: Sequence[str], cores: int, model: str, port: str, further: Sequence[str] = ()) -> Launch:
    """Decide what to run on a machine with these GPUs and so many cores.

    `model` and `port` are "" if they were not named; `further` are more words for `vllama serve`, after ours for this
    model, so that they win.
    """
    kind = "cuda" if gpus else "cpu"
    env = {"VLLAMA_VLLM": str(environment(kind) / "bin" / "vllm"), "VLLAMA_STATE_DIR": str(ROOT / ".state")}
    argv = [str(ROOT / ".venv" / "bin" / "vllama"), "serve", "--port", port or "11434"]
    if model:
        argv += ["--model", model]
    else:
        argv += ["--model", str(SMOLLM2), "--name", NAME, "--served-model-name", SERVED_AS]
        env["HF_HUB_OFFLINE"] = "1"  # the model is here: a start must not depend on a hub
    if gpus:
        argv += ["--replicas", str(len(gpus)), "--gpus", ",".join(gpus)]
        if not model:
            argv += ["--gpu-memory-utilization", "0.8"]  # the first has another worker beside it
    else:
        argv += ["--replicas", str(CPU_WORKERS), "--max-num-seqs", "8"]
        if not model:
            argv += ["--max-model-len", str(CPU_CONTEXT)]
        # By itself each worker would bind its threads to the same cores as the other, and they would wait for
        # each other while further cores stay idle.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        env["OMP_NUM_THREADS"] = str(max(1, cores // CPU_WORKERS))
    argv += further
    if not model:
        argv += ["--and", *embedding(gpus)]
    parts = ("dev", "vllm") if model else ("dev", "vllm", "smollm2", "minilm")
    return Launch(parts, tuple(argv), env)


def embedding(gpus: Sequence[str]) -> list[str]:
    """The words for the worker that embeds: a small one, on the first GPU if there are any."""
    words = ["--model", str(MINILM), "--name", EMBEDS, "--served-model-name", EMBEDS, "--dtype", "float32"]
    if gpus:
        return [*words, "--gpus", gpus[0], "--gpu-memory-utilization", "0.1"]
    return [*words, "--max-num-seqs", "8"]


def main() -> None:
    gpus = find_gpus()
    launch = choose(gpus, os.cpu_count() or 1, os.environ.get("MODEL", ""), os.environ.get("PORT", ""), sys.argv[1:])
    try:
        with exclusively(ROOT / ".state" / "setup.lock"):
            for step in plan(list(launch.parts), "cuda" if gpus else "cpu"):
                ensure(step())
    except Failed as failure:
        sys.exit(f"vllama: {failure}")
    except OSError as error:
        sys.exit(f"vllama: set-up failed: {error}")
    except KeyboardInterrupt:
        sys.exit("vllama: interrupted; run it again to go on")
    sys.stderr.flush()
    os.execve(launch.argv[0], launch.argv, {**launch.env, **os.environ})


if __name__ == "__main__":
    main()
