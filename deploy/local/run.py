"""`make run`: set up what is needed, then become `vllama serve`.

Without a GPU: two workers with vLLM's CPU build. With NVIDIA GPUs: one worker on each. MODEL names the model,
SmolLM2-135M-Instruct as `smollm2:135m` if it is not set; PORT the router's port.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.local.gpus import find_gpus
from deploy.local.setup import ROOT, SMOLLM2, environment, plan
from deploy.local.steps import Failed, ensure, exclusively

NAME = "smollm2"
SERVED_AS = "smollm2:135m"
CPU_WORKERS = 2


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

    `model` and `port` are "" if they were not named; `further` are more words for `vllama serve`, after ours.
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
    else:
        argv += ["--replicas", str(CPU_WORKERS), "--max-num-seqs", "8"]
        if not model:
            argv += ["--max-model-len", "2048"]
        # By itself each worker would bind its threads to the same cores as the other, and they would wait for
        # each other while further cores stay idle.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        env["OMP_NUM_THREADS"] = str(max(1, cores // CPU_WORKERS))
    parts = ("dev", "vllm") if model else ("dev", "vllm", "smollm2")
    return Launch(parts, (*argv, *further), env)


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
