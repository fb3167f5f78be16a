"""The table of one image: known positions, intensities, neighbours, units and gaps."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose
from PIL import Image

from rcnn.measuring.measurements import KINDS, columns_of, measure
from rcnn.measuring.pixel_size import PixelSize
from rcnn.measuring.wording import label_of, meaning_of
from rcnn.structures import Instances, Masks
from squares import BACKGROUND, BOXES, SIZE, VALUES, image, squares


def test_sizes_in_units_and_positions_in_pixels() -> None:
    table = measure(image(), squares(), "0.5um")
    assert table["area_um2"].tolist() == [25, 100, 37.5]
    assert table["box_width_um"].tolist() == [5, 10, 7.5]
    assert table["box_area"].tolist() == [25, 100, 37.5]
    assert_allclose(table["feret_max_um"], [math.hypot(5, 5), math.hypot(10, 10), math.hypot(7.5, 5)])
    assert_allclose(table["feret_min"], [5, 10, 5])
    assert table["centroid_x_px"].tolist() == [10, 40, 72.5]
    assert table["centroid_y_px"].tolist() == [15, 20, 55]
    assert table["at_border"].tolist() == [0, 0, 1]
    assert table["class"].tolist() == ["a", "b", "a"]
    in_pixels = measure(image(), squares())
    assert in_pixels["area_px2"].tolist() == [100, 400, 150]
    assert_allclose(in_pixels["perimeter_px"] / 2, table["perimeter_um"])
    assert in_pixels["circularity"].tolist() == table["circularity"].tolist()


def test_nearest_neighbours_by_centroid_and_row() -> None:
    table = measure(None, squares(), "2um", kinds=["shape"], first_row=11)
    assert table["row"].tolist() == [11, 12, 13]
    assert table["neighbour_row"].tolist() == [12, 11, 12]
    first = math.hypot(30, 5)
    assert_allclose(table["neighbour_distance_um"], [2 * first, 2 * first, 2 * math.hypot(32.5, 35)])


def test_neighbours_against_brute_force_and_of_objects_in_one_place() -> None:
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 400, (60, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 9], 1)
    boxes[7] = boxes[31]
    found = Instances((500, 500), boxes, np.zeros(60, np.int64), class_names=("a",))
    table = measure(None, found, kinds=[])
    distances = np.linalg.norm(boxes[:, None, :2] - boxes[None, :, :2], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert_allclose(table["neighbour_distance"], distances.min(1), rtol=1e-5)
    rows = table["neighbour_row"].astype(int) - 1
    assert_allclose(distances[np.arange(60), rows], distances.min(1), rtol=1e-5)
    assert table["neighbour_distance"][7] == 0


@pytest.mark.parametrize("background", ["ring", "image"])
def test_intensities_are_the_stored_values_of_every_channel(background: str) -> None:
    table = measure(image(), squares(), background=background)
    for channel in range(2):
        known = [values[channel] for values in VALUES]
        for what in ("mean", "min", "max"):
            assert table[f"intensity_{what}_c{channel}"].tolist() == known
        assert table[f"intensity_std_c{channel}"].tolist() == [0, 0, 0]
        assert set(table[f"intensity_background_c{channel}"].tolist()) == {BACKGROUND[channel]}
        assert table[f"intensity_corrected_c{channel}"].tolist() == [v - BACKGROUND[channel] for v in known]


def test_statistics_of_pixels_against_numpy_and_a_ring_by_hand() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, SIZE, np.uint16)
    found = squares()
    table = measure(pixels, found)
    x1, y1, x2, y2 = BOXES[1]
    inside = pixels[y1:y2, x1:x2].astype(float)
    assert_allclose(table["intensity_mean"][1], inside.mean())
    assert_allclose(table["intensity_std"][1], inside.std())
    assert (table["intensity_min"][1], table["intensity_max"][1]) == (inside.min(), inside.max())
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    aside, above = np.maximum(x1 - x, x - (x2 - 1)), np.maximum(y1 - y, y - (y2 - 1))
    apart = np.hypot(aside.clip(0), above.clip(0))
    ring = (apart > 2) & (apart <= 7) & ~found.masks.dense().any(0)
    assert table["intensity_background"][1] == np.median(pixels[ring])
    free = pixels[~found.masks.dense().any(0)]
    assert set(measure(pixels, found, background="image")["intensity_background"]) == {np.median(free)}


def test_a_ring_follows_uneven_light_and_is_empty_in_a_crowd() -> None:
    slope = np.tile(np.arange(SIZE[1], dtype=np.float32) * 10, (SIZE[0], 1))
    lit = slope + squares().masks.dense().any(0) * 500
    table = measure(lit, squares())
    assert_allclose(table["intensity_corrected"][1], 500, atol=1)
    assert abs(measure(lit, squares(), background="image")["intensity_corrected"][0] - 500) > 200
    crowd = np.zeros((2, 12, 12), bool)
    crowd[0, :, :6] = crowd[1, :, 6:] = True
    masks = Masks.from_dense(crowd)
    full = Instances((12, 12), masks.boxes(), np.zeros(2, np.int64), masks=masks, class_names=("a",))
    for background in ("ring", "image"):
        table = measure(np.ones((12, 12)), full, background=background)
        assert np.isnan(table["intensity_background"]).all()
        assert np.isnan(table["intensity_corrected"]).all()
        assert table["intensity_mean"].tolist() == [1, 1]


def test_files_are_measured_in_their_own_depth_and_all_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.concatenate([image(), image()[:, :, :1] // 2], 2).transpose(2, 0, 1)
    tifffile.imwrite(path, pixels, photometric="minisblack", ome=True, metadata={
        "axes": "CYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2,
    })  # fmt: skip
    table = measure(path, squares())
    assert table["intensity_max_c0"].tolist() == [1000, 3000, 60000]
    assert table["intensity_max_c2"].tolist() == [500, 1500, 30000]
    assert str(table.pixel_size) == "0.2 µm (OME metadata)"
    assert_allclose(table["area_um2"], [4, 16, 6])
    assert measure(path, squares(), "px")["area_px2"].tolist() == [100, 400, 150]
    gray, colour = tmp_path / "gray.png", tmp_path / "colour.png"
    Image.fromarray(image()[:, :, 0]).save(gray)
    Image.fromarray(np.stack([image()[:, :, 1].astype(np.uint8)] * 3, 2)).save(colour)
    assert measure(gray, squares())["intensity_max"].tolist() == [1000, 3000, 60000]
    assert measure(colour, squares())["intensity_max_green"].tolist() == [100, 300 - 256, 7]


def test_boxes_get_what_boxes_can_give() -> None:
    table = measure(image(), squares(masks=False), "1um")
    assert table["box_area_um2"].tolist() == [100, 400, 150]
    assert table["intensity_mean_c0"].tolist() == [1000, 3000, 60000]
    assert table["neighbour_row"].tolist() == [2, 1, 2]
    assert table["at_border"].tolist() == [0, 0, 1]
    for name in ("area", "perimeter", "feret_max", "solidity", "orientation"):
        assert np.isnan(table[name]).all()


def test_an_empty_mask_no_objects_and_a_single_one() -> None:
    found = squares()
    bitmaps = found.masks.dense()
    bitmaps[0] = False
    masks = Masks.from_dense(bitmaps)
    table = measure(image(), Instances(SIZE, found.boxes, found.labels, masks=masks, class_names=("a", "b")))
    assert table["area_px2"][0] == 0
    assert np.isnan([table[name][0] for name in ("perimeter", "circularity", "intensity_mean_c0")]).all()
    none = measure(image(), found[:0])
    assert len(none) == 0
    assert none.rows() == []
    one = measure(image(), found[:1])
    assert np.isnan(one["neighbour_distance"]).all()
    assert one.rows()[0][list(one.columns).index("neighbour_row")] == ""


def test_objects_cut_by_tiles_are_marked() -> None:
    found = squares()
    marked = Instances(SIZE, found.boxes, found.labels, class_names=("a", "b"), cut=np.array([0, 1, 0], bool))
    assert measure(None, marked, kinds=[])["cut"].tolist() == [0, 1, 0]


def test_columns_are_those_that_are_announced_and_all_are_explained(tmp_path: Path) -> None:
    for unit in ("um", "px"):
        size = PixelSize(0.5, "um") if unit == "um" else PixelSize()
        table = measure(image(), squares(), size)
        announced = columns_of(KINDS, unit, ("c0", "c1"), regions=False)
        assert list(table.columns) == announced
        assert all(meaning_of(name) for name in announced)
    assert label_of("area_um2") == "area, µm²"
    assert label_of("intensity_mean_c0") == "intensity mean c0"
    path = table.save(tmp_path / "a.csv")
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == announced
    assert rows[0][:3] == ["1", "a", "0.9"]
    assert rows[1][head.index("area_px2")] == "400"
    assert table.to_pandas()["area_px2"].tolist() == [100, 400, 150]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="intensities need the image"):
        measure(None, squares())
    with pytest.raises(ValueError, match=r"\(height, width\) \(60, 79\), but the objects are those of"):
        measure(image()[:, :79], squares())
    with pytest.raises(ValueError, match="measure 'shapes': did you mean shape"):
        measure(image(), squares(), kinds=["shapes"])
    with pytest.raises(ValueError, match="background 'rings': did you mean ring"):
        measure(image(), squares(), background="rings")
    with pytest.raises(ValueError, match="expected numbers"):
        measure(np.zeros((*SIZE, 1, 1)), squares())
    with pytest.raises(KeyError, match="did you mean area"):
        measure(None, squares(), kinds=["shape"])["aera_px2"]
    with pytest.raises(ValueError, match=r"ends in .csv"):
        measure(None, squares(), kinds=[]).save("a.xlsx")
