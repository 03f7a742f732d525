from __future__ import annotations

from vllama_pool.router.supervisor.serve import example_commands


def test_the_commands_to_try_name_the_first_model_and_the_url() -> None:
    commands = example_commands("http://127.0.0.1:8000", ["smollm2:135m"], "vllama")
    assert len(commands) == 3
    assert "http://127.0.0.1:8000/api/chat" in commands[0]
    assert '"smollm2:135m"' in commands[0]
    assert commands[2] == "vllama ps --url http://127.0.0.1:8000"
    keyed = example_commands("http://127.0.0.1:8000", ["m"], "vllama", keyed=True)
    assert [command.startswith("curl -H 'Authorization: Bearer KEY' http://") for command in keyed] == [
        True,
        True,
        False,
    ]
