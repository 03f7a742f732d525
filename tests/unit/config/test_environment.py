import pytest

from vllama_pool.config.environment import trimmed, unknown_variables, values_for, variables_of
from vllama_pool.config.settings import RouterSettings, WorkerSettings


@pytest.mark.parametrize("value", ["1.2.3.4", " 1.2.3.4 ", '"1.2.3.4"', "'1.2.3.4'", ' " 1.2.3.4 " '])
def test_blanks_and_quotes_are_trimmed(value: str) -> None:
    assert trimmed(value) == "1.2.3.4"


def test_variables_that_kubernetes_sets_for_a_service_are_not_settings() -> None:
    environ = {
        "VLLAMA_SERVICE_HOST": "10.0.0.1",
        "VLLAMA_SERVICE_PORT": "11434",
        "VLLAMA_SERVICE_PORT_HTTP": "11434",
        "VLLAMA_PORT": "tcp://10.0.0.1:11434",
        "VLLAMA_PORT_11434_TCP": "tcp://10.0.0.1:11434",
        "VLLAMA_PORT_11434_TCP_ADDR": "10.0.0.1",
        "VLLAMA_WORKER_PORT": "tcp://10.0.0.2:8100",
    }
    assert unknown_variables(environ, variables_of(RouterSettings)) == []
    assert "port" not in values_for(RouterSettings, environ)
    assert "port" not in values_for(WorkerSettings, environ)
    assert values_for(RouterSettings, {"VLLAMA_PORT": "80"})["port"] == "80"


def test_an_unknown_variable_is_reported_with_a_suggestion() -> None:
    environ = {"VLLAMA_PROCESESS": "2", "VLLAMA_XYZ": "1", "VLLAMA_PROCESSES": "2", "PATH": "/bin", "VLLM_X": "1"}
    assert unknown_variables(environ, ["VLLAMA_PROCESSES", "VLLAMA_HOST"]) == [
        "VLLAMA_PROCESESS: unknown setting; did you mean VLLAMA_PROCESSES?",
        "VLLAMA_XYZ: unknown setting",
    ]
