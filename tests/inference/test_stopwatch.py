"""Times by part of a network: complete, not counted twice, and gone when it is left."""

import time

import numpy as np
import pytest
import torch

from rcnn.inference.detector import Detector
from rcnn.inference.stopwatch import Stopwatch
from rcnn.transform import Transform
from tiny import NAMES, tiny_network, tiny_recipe


class Part(torch.nn.Module):
    """Sleeps when called; ``decode`` calls ``forward``."""

    def forward(self) -> None:
        time.sleep(0.02)

    def decode(self) -> None:
        self()


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Part(), torch.nn.Sequential()
        self.two.inner = Part()

    def forward(self) -> None:
        self.one()
        self.one.decode()
        self.two.inner()


def test_times_are_those_of_the_outermost_calls() -> None:
    network = Network()
    watch = Stopwatch(network)
    network()  # not entered
    assert watch.seconds == {}
    for _ in range(2):
        with watch:
            network()
    assert list(watch.seconds) == ["one", "two"]
    # Two calls a round, of which decode's own call of forward is no third.
    assert 0.08 <= watch.seconds["one"] < 2
    assert 0.04 <= watch.seconds["two"] < watch.seconds["one"]
    assert "forward" not in vars(network.one)
    assert "forward" not in vars(network.two.inner)


def test_an_error_leaves_nothing_behind() -> None:
    network = Network()
    watch = Stopwatch(network)
    with pytest.raises(TypeError), watch:
        network.one(1)
    with watch:
        network()
    assert "one" in watch.seconds


def test_speed_adds_up() -> None:
    network = Network()
    with Stopwatch(network) as watch:
        network()
    got = watch.speed(2, decoding=0.1, predicting=0.3)
    assert got["images_per_second"] == pytest.approx(1 / 0.4)
    parts = got["one_seconds"] + got["two_seconds"]
    assert parts == pytest.approx(sum(watch.seconds.values()) / 2)
    assert got["rest_seconds"] == pytest.approx(0.3 - parts)
    assert 10 < got["peak_megabytes"] < 1e6
    whole = Stopwatch(None).speed(2, decoding=0.1, predicting=0.3)  # as of an exported model
    assert whole.pop("peak_megabytes") > 0
    assert whole == pytest.approx({"images_per_second": 2.5, "decoding_seconds": 0.1, "rest_seconds": 0.3})


def test_predictions_are_the_same_while_timed() -> None:
    detector = Detector(tiny_network(tiny_recipe()), Transform(), NAMES, min_score=0.0)
    image = torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(0))
    (expected,) = detector.predict(image)
    with Stopwatch(detector.inference_network) as watch:
        (got,) = detector.predict(image)
    np.testing.assert_allclose(got.boxes, expected.boxes)
    assert {"backbone", "neck", "rpn", "box", "mask"} <= set(watch.seconds)
