import random
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.config.names import ConflictingSource, InvalidName, Name, is_cloud, lookup_key, parse

LONG = "8" * 80
LONG_HOST = "3" * 350


@pytest.mark.rule(169, 173)
@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("llama3.2", "registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest"),
        ("llama3.2:1b", "registry.ollama.ai/library/llama3.2:1b", "llama3.2:1b"),
        ("  llama3.2:1b\n", "registry.ollama.ai/library/llama3.2:1b", "llama3.2:1b"),
        ("Qwen/Qwen3-8B", "registry.ollama.ai/Qwen/Qwen3-8B:latest", "Qwen/Qwen3-8B:latest"),
        (
            "meta-llama/Llama-3.2-1B-Instruct",
            "registry.ollama.ai/meta-llama/Llama-3.2-1B-Instruct:latest",
            "meta-llama/Llama-3.2-1B-Instruct:latest",
        ),
        ("library/x", "registry.ollama.ai/library/x:latest", "x:latest"),
        ("registry.ollama.ai/library/x:8b", "registry.ollama.ai/library/x:8b", "x:8b"),
        ("hf.co/unsloth/x:Q4_K_M", "hf.co/unsloth/x:Q4_K_M", "hf.co/unsloth/x:Q4_K_M"),
        ("host/library/x", "host/library/x:latest", "host/library/x:latest"),
        ("host:5000/ns/x", "host:5000/ns/x:latest", "host:5000/ns/x:latest"),
        ("host:5000/ns/x:8b", "host:5000/ns/x:8b", "host:5000/ns/x:8b"),
        ("https://host:5000/ns/x:8b", "host:5000/ns/x:8b", "host:5000/ns/x:8b"),
        ("scheme://h/n/m:t", "h/n/m:t", "h/n/m:t"),
        ("_why/_the/_lucky:_stiff", "_why/_the/_lucky:_stiff", "_why/_the/_lucky:_stiff"),
        (f"{LONG_HOST}/{LONG}/{LONG}:{LONG}",) + (f"{LONG_HOST}/{LONG}/{LONG}:{LONG}",) * 2,
    ],
)
def test_a_name_is_split_into_parts_with_defaults(text: str, full: str, short: str) -> None:
    name = parse(text)
    assert (name.full, name.short) == (full, short)


@pytest.mark.rule(169, 170)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("   ", "empty"),
        (":8b", "the model is empty"),
        ("x:", "the tag is empty"),
        ("/x", "the namespace is empty"),
        ("//x", "the host is empty"),
        ("ns/", "the model is empty"),
        ("https://model", "the namespace is empty"),
        ("a/b/c/d", "the host may have"),
        ("../../etc/passwd", "the host may have"),
        ("-x", "begins with"),
        (".x", "begins with"),
        ("x:-8b", "begins with"),
        ("na.me/x", "the namespace may have letters, digits, '_' and '-' only"),
        ("name:space/x:8b", "the namespace may have"),
        ("x@sha256:abc", "the model may have"),
        ("x y", "the model may have"),
        ("x\ny", "the model may have"),
        ("x:8b\x00", "the tag may have"),
        ("modèle", "the model may have"),
        ("x:٣", "the tag may have"),
        (LONG + "8", "longer than 80"),
        ("x:" + LONG + "8", "longer than 80"),
        (LONG + "8/x", "longer than 80"),
        (LONG_HOST + "3/n/x", "longer than 350"),
        (":cloud", "empty"),
        ("x:-cloud", "the tag is empty"),
    ],
)
def test_an_invalid_name_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidName, match=why) as raised:
        parse(text)
    assert raised.value.text == "invalid model name"
    assert raised.value.given == text


@pytest.mark.trap(10)
@pytest.mark.rule(171, 172)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Llama3.2:1B", "llama3.2:1b"),
        ("x", "x:latest"),
        ("x:LATEST", "X"),
        ("library/x", "x"),
        ("Registry.Ollama.AI/Library/x", "x"),
        ("x:local", "x"),
        ("x:8b:LOCAL", "x:8b"),
        ("ns/x: local", "ns/x:latest"),
    ],
)
def test_spellings_of_one_name_share_a_key(one: str, other: str) -> None:
    assert parse(one).key == parse(other).key


@pytest.mark.trap(10)
@pytest.mark.rule(171)
def test_the_given_spelling_is_kept_for_display() -> None:
    assert parse("Qwen/Qwen3-8B:FP8").short == "Qwen/Qwen3-8B:FP8"
    assert parse("Registry.Ollama.AI/Library/X").short == "X:latest"


@pytest.mark.rule(38, 172)
@pytest.mark.parametrize(
    ("text", "cloud"),
    [
        ("gpt-oss:20b:cloud", True),
        ("gpt-oss:20b-cloud", True),
        ("gpt-oss:20B-CLOUD ", True),
        ("qwen3:cloud", True),
        ("localhost:11434/library/foo:cloud", True),
        ("my-cloud-model", False),
        ("x-cloud", False),
        ("cloud", False),
        ("foo:bar-cloud/baz", False),
        ("x:local", False),
        ("x:clod", False),
        ("", False),
    ],
)
def test_cloud_names_are_recognised(text: str, cloud: bool) -> None:
    assert is_cloud(text) is cloud


@pytest.mark.parametrize(
    ("text", "tag"),
    [("x:cloud", "cloud"), ("x:8b:cloud", "8b-cloud"), ("x:8b-cloud", "8b-cloud"), ("h:80/n/x:cloud", "cloud")],
)
def test_a_cloud_name_never_means_the_local_model(text: str, tag: str) -> None:
    name = parse(text)
    assert name.tag == tag
    assert is_cloud(name.full)


@pytest.mark.rule(149)
@pytest.mark.parametrize("text", ["foo:cloud:local", "foo:local:cloud", "foo:8b-cloud:local", "foo:local:local"])
def test_local_and_cloud_suffixes_together_are_refused(text: str) -> None:
    with pytest.raises(ConflictingSource) as raised:
        parse(text)
    assert raised.value.text == f'use either :local or :cloud, not both: "{text}"'


@pytest.mark.rule(173)
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Qwen/Qwen3-8B", "registry.ollama.ai/qwen/qwen3-8b:latest"),
        ("/models/Llama", "/models/Llama"),
        ("org.name/x", "org.name/x"),
        ("a:local:cloud", "a:local:cloud"),
    ],
)
def test_names_outside_ollamas_grammar_are_compared_exactly(text: str, key: str) -> None:
    assert lookup_key(text) == key


@pytest.mark.parametrize("text", ["x:CLOUD", "x:8b-Cloud", "n/x:8B:Cloud"])
def test_a_cloud_suffix_is_printed_in_lower_case(text: str) -> None:
    assert parse(parse(text).full) == parse(text)


def part(longest: int, extra: str) -> st.SearchStrategy[str]:
    return st.from_regex(rf"[A-Za-z0-9_][A-Za-z0-9_{extra}-]{{0,{longest - 1}}}", fullmatch=True)


names = st.builds(Name, part(350, ".:"), part(80, ""), part(80, "."), part(80, "."))


@pytest.mark.rule(169, 173)
@given(names)
def test_printing_and_parsing_a_name_are_inverse(name: Name) -> None:
    if name.tag.lower() == "local":
        assert parse(name.full).tag == "latest"
    elif is_cloud(name.full):
        assert parse(name.full).key == name.key
    else:
        assert parse(name.full) == name
        assert parse(name.short).key == name.key


@pytest.mark.rule(169)
@given(st.text(max_size=200) | st.text(alphabet="aB1_-.:/ @", max_size=40) | names.map(lambda name: name.full))
def test_parsing_any_text_returns_a_stable_name_or_raises_invalid_name(text: str) -> None:
    try:
        name = parse(text)
    except InvalidName:
        return
    assert parse(name.full) == name
    assert parse(name.key).key == name.key
    assert parse(name.short).key == name.key
    assert is_cloud(text) == is_cloud(name.full)
    assert ".." not in (name.host, name.namespace, name.model, name.tag)


plain_names = names.filter(lambda name: not is_cloud(name.full) and name.tag.lower() != "local")


@pytest.mark.rule(169)
@given(plain_names, st.sampled_from(["{model}", "{namespace}/{model}", "{host}/{namespace}/{model}"]), st.booleans())
def test_missing_parts_of_a_name_get_their_defaults(name: Name, form: str, tagged: bool) -> None:
    text = form.format(host=name.host, namespace=name.namespace, model=name.model) + (f":{name.tag}" if tagged else "")
    host = name.host if "{host}" in form else "registry.ollama.ai"
    namespace = name.namespace if "{namespace}" in form else "library"
    expected = Name(host, namespace, name.model, name.tag if tagged else "latest")
    assert parse(text) == expected
    assert parse(f"  {text}\n") == expected
    if "{host}" in form and "://" not in name.host:
        assert parse(f"https://{text}") == expected


@pytest.mark.rule(169)
@given(plain_names, st.integers(min_value=1, max_value=65535))
def test_the_port_of_a_host_is_not_a_tag(name: Name, port: int) -> None:
    host = f"{name.host.replace(':', '.')[:300]}:{port}"
    assert parse(f"{host}/{name.namespace}/{name.model}") == Name(host, name.namespace, name.model, "latest")


@pytest.mark.rule(170)
@given(plain_names, st.sampled_from(["host", "namespace", "model", "tag"]), st.sampled_from("@é+*%~\0\\"), st.data())
def test_one_invalid_character_makes_a_name_invalid(name: Name, part: str, odd: str, data: st.DataObject) -> None:
    text = getattr(name, part)
    at = data.draw(st.integers(0, len(text)))
    with pytest.raises(InvalidName):
        parse(replace(name, **{part: text[:at] + odd + text[at:]}).full)


@pytest.mark.rule(170)
@given(st.sampled_from([("host", 350), ("namespace", 80), ("model", 80), ("tag", 80)]), st.integers(1, 400))
def test_every_part_of_a_name_has_a_maximum_length(part: tuple[str, int], length: int) -> None:
    field, longest = part
    name = Name(**{"host": "h", "namespace": "n", "model": "m", "tag": "t", field: "x" * length})
    if length <= longest:
        assert parse(name.full) == name
    else:
        with pytest.raises(InvalidName, match=f"longer than {longest}"):
            parse(name.full)


@pytest.mark.rule(171)
@given(plain_names, st.randoms(use_true_random=False))
def test_names_are_compared_without_case(name: Name, chance: random.Random) -> None:
    spelled = "".join(chance.choice((char.lower(), char.upper())) for char in name.full)
    assert lookup_key(spelled) == lookup_key(name.full) == name.key
    assert parse(spelled).full == spelled


@pytest.mark.rule(172)
@given(plain_names, st.sampled_from(["local", "LOCAL", "Local"]), st.sampled_from(["cloud", "Cloud"]))
def test_the_local_suffix_is_stripped_and_the_cloud_suffix_kept(name: Name, local: str, cloud: str) -> None:
    assert parse(f"{name.full}:{local}") == name
    assert not is_cloud(f"{name.full}:{local}")
    assert is_cloud(f"{name.full}:{cloud}")
    assert is_cloud(f"{name.full}-{cloud}")
    assert parse(f"{name.full}:{cloud}").key != name.key
    for both in (f"{name.full}:{local}:{cloud}", f"{name.full}:{cloud}:{local}"):
        with pytest.raises(ConflictingSource):
            parse(both)


def test_long_names_are_not_cached() -> None:
    tracemalloc.start()
    try:
        for number in range(50):
            lookup_key(f"{number}" * 1_000_000)
        assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()


@given(
    st.text(alphabet="aZ0_.-:/ lco", max_size=12)
    | st.sampled_from(["x:local", "x:8b-cloud", "local", "a-cloud", "x:CLOUD"])
)
def test_a_name_without_parts_is_read_as_any_other(text: str) -> None:
    """An explicit default namespace takes the general path."""
    try:
        name = parse(f"library/{text}")
    except InvalidName:
        return
    if "/" not in text and not text.startswith(" "):
        assert parse(text) == name
