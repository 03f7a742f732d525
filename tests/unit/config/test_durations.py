import pytest

from vllama_pool.config.durations import seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("1.5", 1.5),
        ("-1", -1.0),
        ("5m", 300.0),
        ("5m0s", 300.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("-2m30s", -150.0),
        ("+3s", 3.0),
        ("250us", 0.00025),
    ],
)
def test_seconds(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "m", "5 m", "5x", "1h30", "5m-1s", "inf", "nan", "1e3", "٣s", ".", "--1"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration; write"):
        seconds(text)
