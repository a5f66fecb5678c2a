"""The curves of the page: where points are drawn, what they say, and which runs are compared."""

import re
from pathlib import Path

import pandas as pd
import pytest

from lrec.report import chart, curves


def test_chart_places_points():
    drawn = chart.lines([chart.Line("a<b", [(1, 0), (2, 50), (4, 100)])], "k", "y", log=True)
    centres = [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]* cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    assert centres[1][0] - centres[0][0] == pytest.approx(centres[2][0] - centres[1][0], abs=0.02)
    assert centres[0][1] - centres[1][1] == pytest.approx(centres[1][1] - centres[2][1], abs=0.02)
    assert "a&lt;b" in drawn
    assert "a<b" not in drawn


def test_numbers_of_an_axis_do_not_collide():
    drawn = chart.lines([chart.Line("", [(2.0**n, n) for n in range(4, 16)])], "bytes", "y", log=True)
    ticks = re.findall(r'<text x="([\d.]+)" y="226" text-anchor="middle">([\d,]+)<', drawn)
    assert len(ticks) > 4
    for (left, before), (right, after) in zip(ticks, ticks[1:], strict=False):
        assert float(right) - float(left) > 7 * (len(before) + len(after)) / 2


def test_chart_draws_spreads_and_says_what_points_are():
    drawn = chart.lines(
        [
            chart.Line("", [(1, 10), (2, 20)], 0, spreads=[2, 0], words=["a", "b"]),
            chart.Line("", [(2, 15)], 9, words=["c"], joined=False),
        ],
        "bytes",
        "y",
        words=True,
    )
    assert drawn.count('class="whisker c0"') == 1
    assert "<title>a, bytes 1: 10 ± 2</title>" in drawn
    assert "<title>c, bytes 2: 15</title>" in drawn
    assert re.findall(r'class="(?:dot|ring) [^"]*"', drawn) == ['class="dot c0"'] * 2 + ['class="ring c1 again"']
    assert [text for text in re.findall(r">(\w)</text>", drawn) if text.isalpha()] == ["a", "b"]


def test_untrained_results_have_no_cost_of_training(root: Path):
    settings = {"ensemble_size": 1, "meta_class_size": 5, "image_size": 64, "share": "layer1", "epochs": 0}
    entry = {"backbone": "mobilenet_v2", "counts": {"train": [100, 5]}, "settings": settings, "recall": {"1": 0.4}}
    (found,) = curves.compared({"mine": {"a": entry, "b": entry}}, {})
    titles = [re.search("<figcaption>(.*)</figcaption>", drawn)[1].split(",")[0] for drawn in found.charts]
    assert titles == ["Recall@K", "Recall@1 by embedding compute"]


def test_results_of_a_variant_are_compared(root: Path):
    codes = [{"code": str(b), "bytes": b, "recall_at_1": float(r)} for b, r in ((4, 30), (8, 20), (16, 40))]
    sizes = [{"branches": 1, "recall_at_1": 30.0, "recall_at_1_spread": 0.0}]
    entry = {
        "backbone": "mobilenet_v2",
        "counts": {"train": [100, 5]},
        "settings": {"ensemble_size": 1, "meta_class_size": 5, "image_size": 64, "share": "layer1", "epochs": 2},
        "recall": {"1": 0.4, "2": 0.5},
        "untrained": None,
        "analysis": {"compression": codes, "ensemble_size": sizes},
    }
    dearer = entry | {"analysis": {"compression": codes[1:2]}, "settings": entry["settings"] | {"ensemble_size": 2}}
    known = {"mine": {"a": entry, "b": dearer}, "alone": {"a": entry}}
    history = pd.DataFrame({"epoch": ["1", "2"], "loss": ["3", "2"]})
    (found,) = curves.compared(known, {("mine", "a"): history})
    assert found.variant == "mine"
    assert re.findall(r"</i>(\w)</span>", found.legend) == ["a", "b"]
    titles = [re.search("<figcaption>(.*)</figcaption>", drawn)[1] for drawn in found.charts]
    assert [title.split(",")[0] for title in titles] == [
        "Recall@K",
        "Recall@1 by ensemble size",
        "Recall@1 by bytes of an embedding",
        "Recall@1 by embedding compute",
        "Recall@1 by training compute",
    ]
    # The second one's embeddings are reduced: they have no branches to leave out.
    assert [drawn.count("<polyline") for drawn in found.charts] == [2, 1, 2, 1, 1]
    # What costs more and finds less is left out.
    assert re.findall(r"bytes (\d+):", found.charts[2]) == ["4", "16", "8"]
    # A result that costs more and finds no more has a hollow dot without a name.
    for drawn in found.charts[3:]:
        assert re.findall(r'class="(dot|ring) (c\d)"', drawn) == [("dot", "c0"), ("ring", "c1")]
        assert re.findall(r">([ab])</text>", drawn) == ["a"]
    history["validation_recall_at_1"] = ["20.5", "30"]
    (again,) = curves.compared(known, {("mine", name): history for name in "ab"})
    assert [drawn.count("<polyline") for drawn in again.charts] == [2, 1, 2, 1, 1, 2, 2]
    assert "held-out training classes" in again.charts[-1]
