from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from tests.support.ports import free_ports
from tests.support.vllm.model_folder import write_model
from vllama_pool.config.settings import RegistrySettings, WorkerSettings
from vllama_pool.workers.agent.command_line import CannotStart, WorkerSpec
from vllama_pool.workers.agent.prepare import advertised_url, check_advertise, prepare

ENV = {"VLLAMA_VLLM": f"{sys.executable} vllm"}
SECRET = SecretStr("0123456789abcdef" * 2)


def settings(tmp_path: Path, **changes: Any) -> WorkerSettings:
    return WorkerSettings(registry=RegistrySettings(state_dir=tmp_path / "state"), **changes)


def test_a_model_is_planned_as_a_managed_server(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny")
    port = free_ports()
    spec = WorkerSpec(model=str(model), name="w", port=port, flags=("--max-num-seqs", "4"))
    with prepare(spec, settings(tmp_path, worker_key="k" * 32), ENV) as plan:
        assert (plan.worker_id, plan.url, plan.slots) == ("w", f"http://127.0.0.1:{port}", 4)
        assert plan.server is not None
        assert plan.server.names == ("tiny",)
        assert plan.server.command[:4] == (sys.executable, "vllm", "serve", str(model))
        assert plan.server.env["VLLM_API_KEY"] == plan.key == "k" * 32
        assert plan.server.log == tmp_path / "state" / "logs" / "w.log"


def test_parsers_are_chosen_from_the_template_unless_the_flag_is_none(tmp_path: Path) -> None:
    template = '{{ tools }}<tool_call>{"name": "", "arguments": {}}{% if add_generation_prompt %}<think>{% endif %}'
    model = write_model(tmp_path / "m", config={"model_type": "qwen3"}, chat_template_dot_jinja=template)
    words = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3")
    with prepare(WorkerSpec(model=str(model)), settings(tmp_path), ENV) as plan:
        assert plan.server is not None
        assert plan.server.command[-7:-2] == words
        assert len(plan.notes) == 1
    off = ("--tool-call-parser", "none", "--reasoning-parser=none")
    with prepare(WorkerSpec(model=str(model), flags=off), settings(tmp_path), ENV) as plan:
        assert plan.server is not None
        assert not {"--tool-call-parser", "none", "--reasoning-parser=none"} & set(plan.server.command)
        assert not {"--tool-call-parser", "--reasoning-parser"} & set(plan.server.command)
    with prepare(WorkerSpec(model=str(model), engine="simulated"), settings(tmp_path), ENV) as plan:
        assert plan.server is not None
        assert "--tool-call-parser" not in plan.server.command


def test_ports_and_ids_stay_locked_as_long_as_the_plan(tmp_path: Path) -> None:
    spec = WorkerSpec(model=str(write_model(tmp_path / "tiny")))
    with prepare(spec, settings(tmp_path), ENV) as first, prepare(spec, settings(tmp_path), ENV) as second:
        assert first.server is not None
        assert second.server is not None
        assert second.server.address.port > first.server.address.port >= 8100
        assert first.worker_id != second.worker_id
        exact = WorkerSpec(model=spec.model, name="third", port=first.server.address.port)
        with pytest.raises(CannotStart, match="is in use"), prepare(exact, settings(tmp_path), ENV):
            pass
    with prepare(exact, settings(tmp_path), ENV) as third:
        assert third.generation > 0


def test_a_port_from_the_settings_is_required_exactly(tmp_path: Path) -> None:
    spec, port = WorkerSpec(model=str(write_model(tmp_path / "tiny"))), free_ports()
    with (
        prepare(spec, settings(tmp_path, port=port), ENV),
        pytest.raises(CannotStart, match=f"port {port}"),
        prepare(WorkerSpec(model=spec.model, name="x"), settings(tmp_path, port=port), ENV),
    ):
        pass


def test_the_host_flag_is_bound_and_the_setting_advertised(tmp_path: Path) -> None:
    port = free_ports()
    spec = WorkerSpec(model=str(write_model(tmp_path / "tiny")), port=port, flags=("--host", "0.0.0.0"))
    with prepare(spec, settings(tmp_path, advertise="192.0.2.1"), ENV) as plan:
        assert plan.server is not None
        assert plan.url == f"http://192.0.2.1:{port}"
        assert plan.server.address.local_url == f"http://127.0.0.1:{port}"


def test_an_attached_vllm_is_planned_without_a_server(tmp_path: Path) -> None:
    spec = WorkerSpec(attach="http://127.0.0.1:8000/", flags=("--max-num-seqs", "64"))
    with prepare(spec, settings(tmp_path, probe_timeout=7), {"VLLM_API_KEY": "theirs"}) as plan:
        assert plan.probe_timeout == 7
        assert (plan.server, plan.url, plan.slots, plan.key) == (None, "http://127.0.0.1:8000", 64, "theirs")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://h", "http://", "http://h:99999", "http://u:p@h:1"])
def test_an_invalid_attach_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(CannotStart), prepare(WorkerSpec(attach=url), settings(tmp_path), {}):
        pass


@pytest.mark.parametrize(
    ("url", "advertise", "announced"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/x/", "192.0.2.1", "http://192.0.2.1:8000/x"),
        ("http://localhost", "fd00::1", "http://[fd00::1]"),
        ("https://gpu.test:8000", "192.0.2.1", "https://gpu.test:8000"),
    ],
)
def test_the_loopback_host_of_an_attached_url_is_replaced_for_routers(url: str, advertise: str, announced: str) -> None:
    assert advertised_url(urlsplit(url), advertise) == announced


def test_an_advertised_address_that_routers_cannot_use_is_refused(tmp_path: Path) -> None:
    def registry(url: str | None, secret: SecretStr | None = SECRET) -> RegistrySettings:
        return RegistrySettings(redis_url=url, fleet_secret=secret, state_dir=tmp_path)

    check_advertise("127.0.0.1", registry(None, None))
    check_advertise("127.0.0.1", registry("unix:///run/redis.sock", None))
    check_advertise("127.0.0.1", registry("redis://localhost:6379/0"))
    check_advertise("10.0.0.5", registry("redis://redis.test:6379/0"))
    with pytest.raises(CannotStart, match=r"the registry is on redis\.test"):
        check_advertise("127.0.0.1", registry("redis://redis.test:6379/0"))
    with pytest.raises(CannotStart, match=r"the registry is on 10\.0\.0\.1"):
        check_advertise("localhost", registry("rediss://:pw@10.0.0.1/0"))
    with pytest.raises(CannotStart, match="VLLAMA_FLEET_SECRET"):
        check_advertise("10.0.0.5", registry("redis://redis.test:6379/0", None))
    for nowhere in ("0.0.0.0", "::", ""):
        with pytest.raises(CannotStart, match="--advertise"):
            check_advertise(nowhere, registry(None))
