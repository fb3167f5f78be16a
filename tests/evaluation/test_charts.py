"""The values behind the charts of a report."""

import math

import pytest

from rcnn.evaluation.charts import curve_of, smoothed, thinned


def test_smoothing_and_thinning_keep_a_straight_line():
    line = ([float(i) for i in range(1000)], [2.0 * i for i in range(1000)])
    assert smoothed(line)[1] == pytest.approx(line[1])
    xs, ys = thinned(line, 300)
    assert len(xs) == 250
    assert ys == pytest.approx([2 * x for x in xs])
    assert smoothed(([], [])) == ([], [])


def test_curves_pass_over_what_is_not_there():
    rows = [{"iteration": 5, "a": 1.0}, {"a": math.nan}, {"iteration": 9, "b": 2.0}, {"a": 3.0}, {"a": None}]
    assert curve_of(rows, "a", "iteration") == ([5, 9], [1.0, 3.0])
    assert curve_of(rows, "a", "row") == ([0.0, 3.0], [1.0, 3.0])
