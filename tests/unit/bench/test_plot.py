from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from tests.bench.curves import CURVES, panels, table
from tests.bench.plot import Panel, Series, svg, ticks
from tests.bench.scale import Point

POINTS = [Point(x=x, other=0.0, figures={"cpu_request": 100.0 + x, "least": 40.0, "most": 60.0}) for x in (1, 2)]


def test_ticks_are_round_and_reach_the_highest_value() -> None:
    assert ticks(8.0) == [0, 2, 4, 6, 8]
    assert ticks(746.0) == [0, 200, 400, 600, 800]
    assert ticks(0.9) == [0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(0.0) == [0, 1]


def test_a_picture_is_well_formed_and_shows_titles_units_and_every_point() -> None:
    panel = Panel("CPU & more", "workers", "µs", [Series("a", [(1, 2.0), (10, 4.0)]), Series("b", [(1, 1.0)])])
    picture = ElementTree.fromstring(svg([panel, panel]))
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"CPU & more", "workers", "µs", "a", "b", "10", "4"} <= set(texts)
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}circle"))) == 6


def test_a_single_point_is_drawn_in_the_middle() -> None:
    assert 'cx="183.0"' in svg([Panel("", "", "", [Series("", [(5, 1.0)])])])


def test_labels_of_close_points_are_left_out() -> None:
    points = [(float(x), 1.0) for x in (1, 999, 1000)]
    assert ">999<" not in svg([Panel("", "", "", [Series("", points)])])


def test_a_curve_has_a_panel_for_each_chart_and_a_row_for_each_point() -> None:
    curve = CURVES["processes"]
    first, second = panels(curve, POINTS)
    assert first.series == [Series("one token", [(1, 101.0), (2, 102.0)])]
    assert [series.label for series in second.series] == ["least busy", "busiest"]
    assert table(curve, POINTS).splitlines()[-1] == "| 2 | 102 | 40.0 | 60.0 |"


def test_a_point_without_a_figure_is_left_out_of_its_chart() -> None:
    points = [Point(x=1, other=0.0, figures={"cpu_token": 1.0, "token_p50": 1.0, "token_p99": 1.0})]
    memory = panels(CURVES["streams"], points)[1]
    assert memory.series[0].points == []
    assert "| – |" in table(CURVES["streams"], points)
    assert "Memory" in svg([memory])
