import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matmill import charts

NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'
values = st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=1, max_size=30)


def shapes(svg, tag):
    return list(ElementTree.fromstring(svg).iter(tag))


def test_bars_are_as_long_as_their_counts():
    counts = {"proposed": 200, "relaxed <40>": 50, "none": 0}
    rects = shapes(charts.bars(counts, title="left"), "rect")
    widths = [float(rect.get("width")) for rect in rects]
    assert widths[0] == pytest.approx(4 * widths[1], rel=1e-3)
    assert widths[2] == 1.0


@given(values)
def test_a_histogram_counts_every_value(found):
    svg = charts.histogram([*found, math.nan], title="E (eV)", limit=0.1)
    bars = shapes(svg, "rect")
    tallest = max(float(bar.get("height")) for bar in bars)
    # The tallest bar fills the frame; its count follows from the sum of all heights.
    total = sum(float(bar.get("height")) for bar in bars) / tallest
    assert len(found) / total == pytest.approx(round(len(found) / total), rel=0.02)
    inside = all(0 <= float(bar.get("x")) <= 420 for bar in bars)
    assert inside


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 2)), min_size=1, max_size=12))
def test_intervals_are_centred_on_the_mean(found):
    rows = [(f"c{i}", mean, std) for i, (mean, std) in enumerate(found)]
    svg = charts.intervals(rows, title="gap", low=1.0, high=math.inf)
    lines, dots = shapes(svg, "line"), shapes(svg, "circle")
    assert len(dots) == len(lines) == len(rows)
    for line, dot in zip(lines, dots, strict=True):
        middle = (float(line.get("x1")) + float(line.get("x2"))) / 2
        assert middle == pytest.approx(float(dot.get("cx")), abs=0.11)


def test_nothing_to_show():
    assert charts.histogram([math.nan], title="x") == "<p>No values.</p>"
    assert charts.intervals([("a", math.nan, 0.1)], title="x", low=0, high=1) == "<p>No values.</p>"


def test_names_are_escaped():
    svg = charts.intervals([("<b>", 1.0, 0.1)], title="a < b", low=0, high=2)
    assert re.search(r"&lt;b&gt;", svg)
    assert NAMESPACE not in svg


def test_compared_histograms_hold_every_value_and_share_an_axis():
    svg = charts.compared([1, 1, 2, 3], [2, 2, 3, 3], title="elements")
    heights = [float(bar.get("height")) for bar in shapes(svg, "rect")]
    assert sum(heights) == pytest.approx(2 * max(heights), rel=0.01)  # half of them are in one bin
    assert len(shapes(svg, "polyline")) == 1
    assert charts.compared([math.nan], [1.0], title="x") == "<p>No values.</p>"


def test_paired_bars_name_both_shares():
    svg = charts.paired_bars({"cubic": 0.5, "a<b": 0.25}, {"cubic": 0.125}, title="systems")
    assert svg.count("<rect") == 3
    assert "12.5 %" in svg
    assert "a&lt;b" in svg
