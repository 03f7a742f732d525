"""Defaults and limits for requests, from an entry."""

from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.config.routing.model_entry import ModelEntry


def test_an_entry_without_settings_has_no_defaults() -> None:
    assert Defaults.of(ModelEntry()) == NO_DEFAULTS


def test_every_setting_of_an_entry_that_changes_requests_is_taken_over() -> None:
    entry = ModelEntry.model_validate(
        {
            "options": {"temperature": 0.5},
            "system": "Be brief.",
            "stream_interval": 4,
            "completions": "templated",
            "tools": "ignore",
            "limits": {"output": 10, "context": 20},
        }
    )
    assert Defaults.of(entry) == Defaults(
        {"temperature": 0.5},
        "Be brief.",
        stream_interval=4,
        templates_completions=True,
        output=10,
        context=20,
        ignores_tools=True,
    )
