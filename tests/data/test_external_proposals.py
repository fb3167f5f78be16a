"""Proposals from files and searches: their formats, the way to the data set, and what is kept on disk."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from rcnn.data import external_proposals as module
from rcnn.data.augment import Augment, copy_paste
from rcnn.data.dataset import Dataset, Record
from rcnn.data.external_proposals import cached_search, read_proposals, with_proposals, write_proposals
from rcnn.data.geometry import TrainingSample, View, view_sample
from rcnn.data.shapes import draw_shapes
from rcnn.parts.batch import TargetMasks, Targets
from rcnn.parts.selective_search import SelectiveSearchSettings
from rcnn.structures import Instances, Masks
from rcnn.transform import Transform

BOXES = np.array([[0, 0, 20, 10], [5, 5, 15, 30]], np.float32)


def records(*names: str, ids: tuple[int, ...] = ()) -> Dataset:
    """A data set of empty images of 40 x 30 pixels, whose ids are their names or numbers."""
    return Dataset(
        "voc", Path("cells"), ("cell",),
        [
            Record(Path(f"{n}.png"), ids[i] if ids else n, Instances.empty((40, 30)))
            for i, n in enumerate(names)
        ],
    )  # fmt: skip


class TestFiles:
    @pytest.mark.parametrize("ending", ["npz", "json"])
    def test_round_trip(self, tmp_path: Path, ending: str) -> None:
        given = {"a": BOXES, "b": BOXES[:1]}
        read = read_proposals(write_proposals(tmp_path / f"p.{ending}", given))
        assert list(read) == ["a", "b"]
        for name, boxes in given.items():
            assert_allclose(read[name], boxes, rtol=0, atol=1e-4)

    def test_images_without_proposals_are_kept_in_npz(self, tmp_path: Path) -> None:
        read = read_proposals(write_proposals(tmp_path / "p.npz", {"a": BOXES[:0], 7: BOXES}))
        assert read["a"].shape == (0, 4)
        assert_allclose(read["7"], BOXES)

    def test_the_published_matlab_files(self, tmp_path: Path) -> None:
        io = pytest.importorskip("scipy.io")
        boxes, images = np.empty((1, 2), dtype=object), np.empty((2, 1), dtype=object)
        boxes[0, 0] = np.array([[1, 1, 10, 20], [6, 6, 30, 15]], dtype=np.uint16)  # y1 x1 y2 x2 from 1
        boxes[0, 1] = np.zeros((0, 4), dtype=np.uint16)
        images[:, 0] = ["000005", "000007"]
        io.savemat(tmp_path / "voc_2007_test.mat", {"boxes": boxes, "images": images})
        read = read_proposals(tmp_path / "voc_2007_test.mat")
        assert list(read) == ["000005", "000007"]
        assert_allclose(read["000005"], BOXES)
        assert read["000007"].shape == (0, 4)

    def test_coco_proposals_come_best_first(self, tmp_path: Path) -> None:
        rows = [
            {"image_id": 3, "bbox": [5, 5, 10, 25], "score": 0.2},
            {"image_id": 3, "bbox": [0, 0, 20, 10], "score": 0.9},
        ]
        (tmp_path / "p.json").write_text(json.dumps(rows))
        assert_allclose(read_proposals(tmp_path / "p.json")[3], BOXES)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("p.pkl", b"", "expected .npz, .mat"),
            ("p.npz", b"PK", "not a proposal file: expected images, counts and boxes"),
            ("p.json", b"{", "not JSON"),
            ("p.json", b"{}", "expected a list"),
            ("p.json", b'[{"image_id": 1, "bbox": [1, 2]}]', "entry 0: expected a list"),
            ("p.mat", b"nothing of MATLAB's", "not a MATLAB file"),
        ],
    )
    def test_other_files_are_refused_by_name(
        self, tmp_path: Path, name: str, content: bytes, message: str
    ) -> None:
        if name.endswith("mat"):
            pytest.importorskip("scipy.io")
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            read_proposals(tmp_path / name)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such proposal file"):
            read_proposals(tmp_path / "p.npz")


class TestWithProposals:
    def test_by_id_and_by_name(self, tmp_path: Path) -> None:
        file = write_proposals(tmp_path / "p.npz", {"1": BOXES, "2": BOXES[:1]})
        by_id = with_proposals(records("2", "1", ids=(1, 2)), file)
        by_name = with_proposals(records("2", "1", ids=(10, 20)), file)
        assert [len(r.truth.proposals) for r in by_id.records] == [2, 1]
        assert [len(r.truth.proposals) for r in by_name.records] == [1, 2]

    def test_boxes_are_cut_to_the_image_and_dropped_outside(self) -> None:
        given = {"a": np.array([[-2.0, 0, 10, 42], [31, 0, 33, 10]])}
        (record,) = with_proposals(records("a"), given).records
        assert_allclose(record.truth.proposals, [[0.0, 0, 10, 40]])

    def test_proposals_of_other_images_are_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"a\.png such as \[0\.0, 0\.0, 64\.0, 10\.0\] extend beyond its"
        ):
            with_proposals(records("a"), {"a": np.array([[0.0, 0, 64, 10]])})

    @pytest.mark.parametrize("box", [[-9.0, 0, 10, 10], [0, 0, 10, float("nan")]])
    def test_boxes_left_of_the_image_and_of_no_numbers(self, box: list[float]) -> None:
        with pytest.raises(ValueError, match="Are these the proposals of other images"):
            with_proposals(records("a"), {"a": np.array([box])})

    def test_of_a_matlab_file_only_names_count(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(module, "read_proposals", lambda _: {"1": BOXES, "2": BOXES[:1]})
        found = with_proposals(records("2", "1", ids=(1, 2)), tmp_path / "p.mat")
        assert [len(r.truth.proposals) for r in found.records] == [1, 2]

    def test_images_that_a_json_does_not_name_have_none(self, tmp_path: Path) -> None:
        file = write_proposals(tmp_path / "p.json", {"a": BOXES, "b": BOXES[:0], "c": BOXES})
        with pytest.warns(UserWarning, match=r"p\.json: no proposals for 1 of 3 images"):
            found = with_proposals(records("a", "b", "c"), file)
        assert [len(r.truth.proposals) for r in found.records] == [2, 0, 2]
        with pytest.raises(ValueError, match="no proposals for 2 of the 2 images"):
            with_proposals(records("d", "e"), file)

    def test_missing_images_are_listed(self) -> None:
        with pytest.raises(ValueError, match=r"no proposals for 2 of the 3 images of cells: b, c; it has a"):
            with_proposals(records("a", "b", "c"), {"a": BOXES})


class TestCache:
    def test_searched_once_for_each_content_and_setting(self, tmp_path: Path, monkeypatch) -> None:
        calls = []

        def search(image, settings):
            calls.append(settings)
            return BOXES[: len(calls)]

        monkeypatch.setattr(module, "selective_search", search)
        image = np.zeros((4, 6, 3), np.uint8)
        settings = SelectiveSearchSettings()
        first = cached_search(image, settings, tmp_path)
        assert_allclose(cached_search(image.copy(), settings, tmp_path), first)
        assert len(calls) == 1
        assert len(cached_search(image.reshape(6, 4, 3), settings, tmp_path)) == 2
        cached_search(image, replace(settings, seed=1), tmp_path)
        assert len(calls) == 3
        assert len(list(tmp_path.iterdir())) == 3

    def test_images_of_a_data_set_are_searched_in_their_order(self, tmp_path: Path, monkeypatch) -> None:
        from PIL import Image

        def search(image, settings):
            side = float(image[0, 0, 0])
            return np.array([[0.0, 0, side, side]])

        monkeypatch.setattr(module, "selective_search", search)
        data = records("a", "b", "c")
        for i, name in enumerate("abc"):
            Image.new("RGB", (30, 40), (10 + i, 0, 0)).save(tmp_path / f"{name}.png")
        data = replace(data, records=[replace(r, path=tmp_path / r.path) for r in data.records])
        seen = []
        searched = with_proposals(data, progress=lambda done, of: seen.append((done, of)))
        assert [float(r.truth.proposals[0, 2]) for r in searched.records] == [10, 11, 12]
        assert seen == [(1, 3), (2, 3), (3, 3)]

    def test_drawn_images_are_searched_as_they_are(self, monkeypatch) -> None:
        monkeypatch.setattr(
            module, "selective_search", lambda image, _: np.array([[0.0, 0, *image.shape[:2]]])
        )
        shapes = draw_shapes(2, size=(32, 48))
        found = with_proposals(shapes)
        assert [r.truth.proposals.tolist() for r in found.records] == [[[0, 0, 32, 32]]] * 2


class TestJourney:
    def test_through_a_view(self) -> None:
        truth = Targets.empty((40, 30), proposals=torch.tensor([[0.0, 0, 20, 10], [25, 0, 30, 40]]))
        sample = TrainingSample(torch.zeros((3, 40, 30), dtype=torch.uint8), truth, 0)
        seen = view_sample(sample, View((5, 0, 25, 40), (80, 40), flip_x=True)).targets
        assert_allclose(seen.proposals, [[10.0, 0, 40, 20]])

    def test_every_variation_keeps_them_in_the_picture(self) -> None:
        truth = Targets.empty((40, 30), proposals=torch.from_numpy(BOXES))
        sample = TrainingSample(torch.zeros((3, 40, 30), dtype=torch.uint8), truth, 0)
        for seed in range(8):
            varied = Augment(crop=24, rotate90=True)(sample, Transform(), np.random.default_rng(seed))
            height, width = varied.targets.size
            boxes = varied.targets.proposals
            assert bool((boxes[:, 2:] > boxes[:, :2]).all())
            assert bool((boxes >= 0).all() and (boxes <= torch.tensor([width, height] * 2)).all())

    def test_pasted_objects_bring_theirs(self) -> None:
        image = torch.zeros((3, 10, 10), dtype=torch.uint8)
        bitmap = np.zeros((1, 10, 10))
        bitmap[0, 2:6, 2:6] = 1
        masks = Masks.from_dense(bitmap)
        box = torch.from_numpy(masks.boxes())
        labels = torch.zeros(1, dtype=torch.int64)
        truth = Targets((10, 10), box, labels, TargetMasks.from_masks(masks))
        below = TrainingSample(image, replace(truth, proposals=box / 4), 0)
        above = TrainingSample(image, replace(truth, proposals=truth.boxes), 1)
        joined = copy_paste(below, above, torch.tensor([True])).targets
        assert_allclose(joined.proposals, torch.cat([box / 4, box]))

    def test_to_the_network(self) -> None:
        transform = Transform(scale=2.0)
        assert_allclose(transform.resize_boxes(torch.from_numpy(BOXES), (40, 30)), 2 * BOXES)
