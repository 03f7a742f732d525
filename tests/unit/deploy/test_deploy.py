"""Static checks of deploy/ against the project. No container engine is needed."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from vllama_pool.config.environment import variables_of
from vllama_pool.config.settings import RouterSettings, WorkerSettings
from vllama_pool.router.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(path for path in DEPLOY.glob("Dockerfile.*") if path.suffix != ".dockerignore")
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
OTHER_VARIABLES = {"VLLAMA_VLLM", "OLLAMA_NUM_PARALLEL", "OLLAMA_CONTEXT_LENGTH"}
"""Variables that are not settings: VLLAMA_VLLM is read by the agent; the README explains the two of Ollama."""


KNOWN = {*variables_of(RouterSettings), *variables_of(WorkerSettings)}


def compose() -> dict[str, Any]:
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert isinstance(content, dict)
    return content


def check_command(words: list[str]) -> None:
    """Check that the words after `vllama` are an existing command with existing options."""
    command = main.get_command(click.Context(main), words[0])
    assert command is not None
    options = {name for parameter in command.params for name in parameter.opts}
    ours = words[1 : words.index("--")] if "--" in words else words[1:]
    for word in ours:
        if word.startswith("--"):
            assert word in options, f"vllama {words[0]} has no {word}"


def unit(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the sections of a systemd unit. Keys may be repeated."""
    sections: dict[str, list[tuple[str, str]]] = {}
    current = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            current = line
            assert current not in sections
            sections[current] = []
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            sections[current].append((key, value))
    return sections


def test_the_readme_documents_every_setting_and_no_other_variable() -> None:
    table = (DEPLOY / "README.md").read_text().partition("## Settings")[2]
    documented = {
        name for line in table.splitlines() if line.startswith("|") for name in re.findall(r"`([A-Z_]+)`", line)
    }
    assert documented == KNOWN


def test_deploy_files_name_only_existing_variables() -> None:
    files = [DEPLOY / "compose.yaml", DEPLOY / ".env.example", DEPLOY / "README.md", *UNITS, *DOCKERFILES]
    for file in files:
        named = set(re.findall(r"\b(?:VLLAMA|OLLAMA|REDIS)_[A-Z_]+\b", file.read_text()))
        assert named <= KNOWN | OTHER_VARIABLES, f"{file.name}: {named - KNOWN - OTHER_VARIABLES}"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_copy_existing_files_and_install_by_hash(path: Path) -> None:
    text = re.sub(r"\\\n", " ", path.read_text())
    ignored = (DEPLOY / f"{path.name}.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in ignored, f"{source} would be left out of the build"
    for step in re.split(r"&&|\n", text):
        if re.search(r"\bpip install\b", step):
            assert "--require-hashes" in step or ("--no-deps" in step and "--offline" in step), step
        if "uv build" in step:
            assert "--require-hashes" in step, step
    for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert ":" in image, f"{image} has no version"
        assert "latest" not in image
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "10001", "it would run as root"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_start_existing_commands(path: Path) -> None:
    text = path.read_text()
    words: list[str] = []
    for kind in ("ENTRYPOINT", "CMD"):
        arrays = re.findall(rf"^{kind} \[(.*)\]$", text, re.MULTILINE)
        words += [word.strip().strip('"') for word in arrays[-1].split(",")] if arrays else []
    assert Path(words[0]).name == "vllama"
    check_command(words[1:])


def test_locked_versions_and_images_agree() -> None:
    vllm = re.search(r"^vllm==(\S+)", (ROOT / "requirements/vllm.txt").read_text(), re.MULTILINE)
    assert vllm
    assert f"ARG VLLM=v{vllm.group(1)}" in (DEPLOY / "Dockerfile.worker").read_text()
    for name in ("bootstrap", "router", "dev"):
        lock = (ROOT / f"requirements/{name}.txt").read_text()
        assert all("--hash=" in entry for entry in re.split(r"\n(?=[a-z])", lock) if "==" in entry)


def test_compose_builds_from_existing_files() -> None:
    for service in compose()["services"].values():
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve().is_file()
        else:
            assert re.search(r":\d+\.\d+", service["image"]), "an image without a version"
    mounted = compose()["services"]["router"]["volumes"][0]
    default = re.match(r"\$\{ROUTING_FOLDER:-([^}]+)\}", mounted)
    assert default
    assert (DEPLOY / default.group(1) / "routing.yaml").is_file()


def test_compose_starts_existing_commands() -> None:
    services = compose()["services"]
    check_command(services["router"]["command"])
    check_command(["worker", *services["worker"]["command"]])


def test_compose_requires_every_secret_and_publishes_only_the_router() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    required = set(re.findall(r"\$\{([A-Z_]+):\?", text))
    assert required == {"REGISTRY_PASSWORD", "VLLAMA_FLEET_SECRET", "VLLAMA_WORKER_KEY", "VLLAMA_API_KEYS"}
    assert [name for name, service in compose()["services"].items() if "ports" in service] == ["router"]
    for name in ("VLLAMA_FLEET_SECRET", "VLLAMA_WORKER_KEY"):
        for service in ("router", "worker"):
            assert name in compose()["services"][service]["environment"]


def test_env_example_lists_all_variables_of_compose_and_holds_no_secret() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text()))
    lines = [line for line in (DEPLOY / ".env.example").read_text().splitlines() if line and line[0] != "#"]
    example = dict(line.partition("=")[::2] for line in lines)
    assert set(example) == used
    for name, value in example.items():
        assert not value or not re.search("SECRET|KEY|PASSWORD|TOKEN", name), name


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_units_start_existing_commands(path: Path) -> None:
    service = dict(unit(path)["[Service]"])
    words = shlex.split(service["ExecStart"])
    assert Path(words[0]).name == "vllama"
    check_command(words[1:])


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_units_are_hardened_and_kill_all_their_processes(path: Path) -> None:
    service = dict(unit(path)["[Service]"])
    assert service["User"] == "vllama"
    assert service["CapabilityBoundingSet"] == ""
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "ProtectKernelModules", "RestrictSUIDSGID"):
        assert service[key] == "yes", key
    assert service["ProtectSystem"] == "strict"
    assert (service["StateDirectory"], service["StateDirectoryMode"]) == ("vllama", "0700")
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > RouterSettings.model_fields["grace"].default


def test_the_readme_names_existing_files() -> None:
    text = (DEPLOY / "README.md").read_text()
    for name in re.findall(r"\b(?:deploy|config|requirements)/[\w./*-]+", text):
        path = name.rstrip("./")
        if path != "deploy/.env":
            assert list(ROOT.glob(path)), f"{path} is not there"


def test_systemd_units_have_no_repeated_keys() -> None:
    for path in UNITS:
        keys = [key for key, _ in unit(path)["[Service]"] if key not in ("EnvironmentFile", "Environment")]
        assert len(keys) == len(set(keys)), path.name


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_every_line_of_the_units(tmp_path: Path) -> None:
    for path in UNITS:
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/vllama/bin/vllama", "/bin/true"))
    units = [str(tmp_path / path.name) for path in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
