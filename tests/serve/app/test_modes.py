"""Images of every kind in a real browser: keypoints, pixel classes, and both objects and pixel classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rcnn
from browser import opened, served
from page_models import GROUNDS, POINTS, keypoint_model, panoptic_model, semantic_model
from rcnn import check, open_data
from rcnn.data.shapes import draw_shapes
from rcnn.serve.app.launch import PageOptions
from rcnn.structures import VOID, merge
from rcnn.training.defaults import plan
from tiny import NAMES

SIZE = (96, 128)
DRAWN = """([x, y]) => {
  const {scale, x: left, y: top} = rcnn.viewer.view, context = rcnn.viewer.overlay.getContext('2d');
  return [...context.getImageData(left + x * scale, top + y * scale, 1, 1).data];
}"""  # what is drawn over a place of the image
MAP = "() => rcnn.map && [...rcnn.map.classes]"
PIXELS = ("sky", "grass", "road")


def views(folder: Path, count: int = 1) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(generator.integers(0, 255, (6, 8, 3), np.uint8))
        small.resize(SIZE[::-1]).save(folder / f"{number}.png")
    return folder


def test_keypoints_are_shown_moved_and_kept(browser: Any, tmp_path: Path) -> None:
    model, folder = keypoint_model(tmp_path / "mice.safetensors"), views(tmp_path / "views")
    with served(PageOptions(str(model), folder)) as server, opened(browser, server.address) as tab:
        tab.settled()
        space = server.workspace
        found = space.finder.find(space.picture(0), space.finder.model())
        assert found.keypoints is not None
        shown = tab.ask("() => rcnn.shapes.map((shape) => shape.points)")
        np.testing.assert_allclose(shown, found.keypoints, atol=0.01)
        x, y, logit = shown[0][0]
        assert logit > 0
        assert tab.ask(DRAWN, [x, y])[3] == 255, "the point is drawn"
        tab.ask("() => rcnn.select(rcnn.shapes[0])")
        tab.key("t")
        names = tab.ask("() => rcnn.state.points")
        assert tuple(names) == POINTS.names
        place = tab.ask("() => rcnn.viewer.tool.handles.points.findLastIndex((point) => point[2] > 0)")
        x, y, _ = tab.ask(f"() => rcnn.viewer.tool.handles.points[{place}]")
        tab.stroke((x, y), (x + 9, y + 5))
        moved = tab.objects[0]["points"][place]
        assert moved[:2] == pytest.approx([x + 9, y + 5], abs=0.6)
        tab.page.get_by_role("button", name="Image done").click()
        tab.until("() => rcnn.info.draft?.status === 'done' && !rcnn.waiting")
        data = open_data(space.corrections.files.objects_file)
    assert data.skeleton is not None
    assert data.skeleton.names == POINTS.names
    truth = data[0].truth
    assert truth.keypoints is not None
    np.testing.assert_allclose(truth.keypoints[0, place, :2], moved[:2], atol=0.01)


def test_pixel_classes_are_shown_hidden_and_counted(browser: Any, tmp_path: Path) -> None:
    model = semantic_model(tmp_path / "views.safetensors", PIXELS)
    folder = views(tmp_path / "views")
    with served(PageOptions(str(model), folder)) as server, opened(browser, server.address) as tab:
        tab.settled()
        space = server.workspace
        found = space.finder.find(space.picture(0), space.finder.model())
        assert found.semantic is not None
        assert tab.ask(MAP) == found.semantic.reshape(-1).tolist()
        label = int(np.bincount(found.semantic.reshape(-1)).argmax())
        y, x = next((y, x) for y, x in np.argwhere(found.semantic == label).tolist() if min(y, x) > 3)
        colour = tab.ask("() => rcnn.state.pixel_colours")[label]
        tab.page.get_by_label("Opacity").fill("1")
        tab.settled()
        assert tab.ask(DRAWN, [x + 0.5, y + 0.5]) == [*colour, 255]
        fraction = (found.semantic == label).mean()
        box = tab.page.get_by_label(f"{PIXELS[label]} {100 * fraction:.1f} %")
        assert f"{PIXELS[label]} {100 * fraction:.1f} %" in tab.page.locator("#now").inner_text()
        box.uncheck()
        tab.settled()
        assert tab.ask(DRAWN, [x + 0.5, y + 0.5])[3] == 0
        assert tab.page.locator("#table").is_hidden(), "there are no objects to list"


def test_a_panoptic_image_is_its_partition_at_every_score(browser: Any, tmp_path: Path) -> None:
    model = panoptic_model(tmp_path / "scene.safetensors")
    folder = views(tmp_path / "views")
    detector = rcnn.load(model, device="cpu")
    found = detector.predict(folder / "0.png", min_score=0.05)[0]
    assert found.scores is not None
    with served(PageOptions(str(model), folder)) as server, opened(browser, server.address) as tab:
        for score in (0.1, round(float(np.median(found.scores)), 2), 1.0):
            tab.page.locator("#score").fill(str(score))
            tab.settled()
            expected = merge(found, settings=replace(detector.merge, min_score=score))
            things = int((expected.labels < expected.num_things).sum())
            assert tab.ask("() => rcnn.viewer.count") == things
            assert bool(things) == (score < 1)
            names = tab.ask("() => rcnn.state.pixel_classes")
            assert tuple(names) == GROUNDS, "what the map calls things is no pixel class"
            areas = np.bincount(expected.classes().reshape(-1), minlength=VOID)[len(NAMES) :]
            assert tab.ask("() => rcnn.viewer.map.counts")[: len(GROUNDS)] == areas[: len(GROUNDS)].tolist()
        tab.page.get_by_role("button", name="Compare").click()
        tab.until("() => rcnn.compare.other?.map && !rcnn.waiting")


def test_pixel_classes_are_painted_and_only_what_is_done_changes(browser: Any, tmp_path: Path) -> None:
    shapes = draw_shapes(
        2, truth="semantic", size=SIZE, class_names=NAMES, objects=(1, 3), diameter=(20.0, 40.0)
    )
    folder = shapes.write(tmp_path / "data")
    before = [sample.truth.semantic for sample in open_data(folder)]
    with served(PageOptions(None, folder)) as server, opened(browser, server.address) as tab:
        names = tab.ask("() => rcnn.state.pixel_classes")
        assert tab.ask(MAP) == before[0].reshape(-1).tolist()
        label = names.index(NAMES[1])
        tab.page.get_by_label("Class", exact=True).select_option(f"c{NAMES[1]}")
        tab.key("b")
        tab.stroke((10, 10), (60, 30))
        painted = before[0].copy()
        painted[10:30, 10:60] = label
        got = np.array(tab.ask(MAP)).reshape(SIZE)
        assert (got != painted).mean() < 0.01, "the box, up to half a pixel of its border"
        assert (got != VOID).all(), "every pixel has one class"
        tab.key("e")
        tab.stroke((30, 20), (31, 20))
        assert tab.ask(MAP).count(VOID) > 50, "the eraser leaves void"
        tab.key("z")
        assert tab.ask(MAP) == got.reshape(-1).tolist()
        tab.key("r")
        tab.stroke((100, 80), (120, 80))
        tab.settled()
        final = np.array(tab.ask(MAP)).reshape(SIZE)
        assert (final[78:82, 102:118] == label).all()
        tab.page.get_by_role("button", name="Image done").click()
        tab.until("() => rcnn.strip.images[0].status === 'done' && !rcnn.waiting")
        file = server.workspace.corrections.files.panoptic_file
        tab.page.reload()
        tab.until("() => window.rcnn?.info && !rcnn.waiting")
    after = open_data(file)
    assert not check(after).errors
    assert not server.workspace.corrections.files.objects_file.exists(), "there are no objects"
    assert after.semantic_names == tuple(names)
    written = [sample.truth.semantic for sample in after]
    np.testing.assert_array_equal(written[0], final)
    np.testing.assert_array_equal(written[1], before[1])
    assert plan(after)[0].model == "fcn", "a model for pixel classes learns from it"
    assert [sample.truth.semantic.tolist() for sample in open_data(folder)] == [m.tolist() for m in before]


def test_a_pixel_class_is_added_and_lies_below_objects(browser: Any, tmp_path: Path) -> None:
    shapes = draw_shapes(
        1, truth="both", size=SIZE, class_names=NAMES, grounds=GROUNDS, objects=(2, 3), diameter=(20.0, 40.0)
    )
    folder = shapes.write(tmp_path / "data")
    with served(PageOptions(None, folder)) as server, opened(browser, server.address) as tab:
        tab.key("c")
        tab.page.get_by_label("Class", exact=True).select_option("new")
        tab.page.get_by_label("Name of the class").fill("water")
        tab.page.get_by_label("A pixel class").check()
        tab.page.get_by_role("button", name="Add class").click()
        tab.settled()
        objects = tab.objects
        tab.key("b")
        tab.stroke((0.2, 0.2), (127.8, 95.8))
        assert tab.objects == objects, "objects stay"
        assert tab.ask("() => rcnn.regions.map((region) => region.class)") == ["water"]
        tab.ask("() => rcnn.select(rcnn.shapes[0])")
        tab.key("Delete")
        tab.page.get_by_role("button", name="Image done").click()
        tab.until("() => rcnn.info.draft?.status === 'done' && !rcnn.waiting")
        data = open_data(server.workspace.corrections.files.panoptic_file)
    assert not check(data).errors
    truth = data[0].truth
    assert data.semantic_names == (*NAMES, *GROUNDS, "water")
    assert len(truth) == len(objects) - 1
    assert set(np.unique(truth.semantic)) == {*truth.labels.tolist(), 4}
