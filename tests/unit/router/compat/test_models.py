"""Selection of the models to check."""

from vllama_pool.router.compat.models import ModelChoice, choose, parse_tags


def tags(*models: tuple[str, int, list[str]]) -> dict[str, object]:
    return {"models": [{"name": name, "size": size, "capabilities": can} for name, size, can in models]}


BIG = ("big:70b", 70, ["completion", "tools", "thinking"])
SMALL = ("small:1b", 1, ["completion"])
ABLE = ("able:8b", 8, ["completion", "tools", "thinking", "vision", "audio"])
VECTORS = ("vectors:latest", 2, ["embedding"])


def test_the_smallest_capable_model_is_chosen() -> None:
    found = choose(parse_tags(tags(BIG, ABLE, VECTORS, SMALL)), ModelChoice())
    assert found == ModelChoice(
        chat="small:1b",
        embed="vectors:latest",
        thinking="able:8b",
        tools="able:8b",
        vision="able:8b",
        audio="able:8b",
        unthinking="small:1b",
        toolless="small:1b",
    )


def test_models_named_by_the_user_are_chosen() -> None:
    found = choose(parse_tags(tags(BIG, ABLE, SMALL)), ModelChoice(chat="big:70b", tools="mine"))
    assert (found.chat, found.tools, found.thinking) == ("big:70b", "mine", "able:8b")


def test_a_thinking_model_chats_if_there_is_no_other() -> None:
    found = choose(parse_tags(tags(BIG, VECTORS)), ModelChoice())
    assert (found.chat, found.unthinking, found.toolless, found.vision) == ("big:70b", None, None, None)
    assert found.names() == {
        "chat": "big:70b",
        "embed": "vectors:latest",
        "thinking": "big:70b",
        "tools": "big:70b",
    }


def test_cloud_models_are_never_chosen() -> None:
    found = choose(
        parse_tags(tags(("huge:cloud", 0, ["completion"]), ("huge:1t-cloud", 0, ["completion"]), SMALL)), ModelChoice()
    )
    assert found.chat == "small:1b"


def test_a_model_without_capabilities_is_assumed_to_chat() -> None:
    found = choose(parse_tags({"models": [{"name": "old", "model": "old"}]}), ModelChoice())
    assert (found.chat, found.embed, found.tools) == ("old", None, None)


def test_a_malformed_list_has_no_models() -> None:
    nonsense: list[object] = [{}, [], "x", None, {"models": None}, {"models": [1, {"name": 2}, {}]}]
    for each in nonsense:
        assert choose(parse_tags(each), ModelChoice()) == ModelChoice()
    assert parse_tags({"models": [{"name": "old", "size": None, "capabilities": None}]})[0].name == "old"
