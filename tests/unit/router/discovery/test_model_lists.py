"""The models of an address, from several full probes."""

from __future__ import annotations

from vllama_pool.router.discovery.model_lists import WINDOW, ModelLists
from vllama_pool.workers.vllm.probe import Health, ProbeResult, ServedModel


def answer(*models: str, version: str = "1", length: int = 100) -> ProbeResult:
    """Adapters have the name of their base in front: "m/adapter"."""
    served = (ServedModel(name, parent=name.rpartition("/")[0], max_model_len=length) for name in models)
    return ProbeResult(Health.OK, tuple(served), version)


def names(result: ProbeResult) -> list[str]:
    return [model.name for model in result.models]


def lists(*answers: ProbeResult) -> ModelLists:
    made = ModelLists()
    for one in answers:
        made.add(one)
    return made


def test_one_server_has_the_models_of_its_latest_answer() -> None:
    made = lists(answer("a"), answer("b"))
    assert names(made.agreed(several=False)) == ["b"]
    assert not made.alternate


def test_models_or_versions_that_come_back_show_several_servers() -> None:
    assert lists(answer("a"), answer("b"), answer("a")).alternate
    assert lists(answer("a"), answer("a", version="2"), answer("a")).alternate
    assert lists(answer("a"), answer("a", length=50), answer("a")).alternate


def test_adapters_come_and_go_on_one_server() -> None:
    assert not lists(answer("m"), answer("m", "m/x"), answer("m")).alternate


def test_several_servers_offer_the_models_that_all_of_them_serve() -> None:
    made = lists(answer("a", "b", version="2"), answer("b", "c", length=50))
    agreed = made.agreed(several=True)
    assert names(agreed) == ["b"]
    assert agreed.models[0].max_model_len == 50
    assert agreed.version == "1, 2"


def test_servers_without_a_common_model_keep_those_returned_before() -> None:
    made = lists(answer("a"))
    assert names(made.agreed(several=False)) == ["a"]
    for _ in range(20):
        made.add(answer("b"))
        assert names(made.agreed(several=True)) == ["a"]
        made.add(answer("a"))
        assert names(made.agreed(several=True)) == ["a"]


def test_models_that_replaced_all_others_are_offered_in_the_end() -> None:
    made = lists(answer("a"))
    made.agreed(several=True)
    for _ in range(WINDOW):
        made.add(answer("b"))
        agreed = made.agreed(several=True)
    assert names(agreed) == ["b"]
