"""Prediction: images of any kind in, objects in their own coordinates out, and the files made of them."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn import checkpoint, models, predict
from rcnn.predict import Detector, find_images, load, predict_to_files, save_instances
from rcnn.structures import ImageBatch, Instances, Masks, Output
from rcnn.transform import Transform


@dataclass(frozen=True)
class DarkSettings:
    threshold: float = -0.5
    masks: bool = True


class Dark(nn.Module):
    """Finds one object an image: all that is darker than a threshold, as class 1 with score 0.75."""

    Settings = DarkSettings

    def __init__(self, num_classes: int, settings: DarkSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or DarkSettings()
        self.weight = nn.Parameter(torch.arange(float(num_classes)))
        self.batch_sizes: list[int] = []

    def forward(
        self,
        batch: ImageBatch,
        targets: Any = None,
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
    ) -> Output:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.batch_sizes.append(len(batch))
        found = [self._found(t[:, :h, :w]) for t, (h, w) in zip(batch.tensors, batch.sizes, strict=True)]
        kept = [f[f.scores >= (min_score or 0)][:max_detections] for f in found]  # type: ignore[operator]
        return Output(detections=kept)

    def _found(self, image: Tensor) -> Instances:
        size = (image.shape[1], image.shape[2])
        dark = image.mean(0) < self.settings.threshold
        if not dark.any():
            return Instances.empty(size, scores=torch.zeros(0), mask_maps=self._maps(0))
        box = Masks.from_dense(dark[None]).boxes()
        return Instances(size, box, torch.tensor([1]), torch.tensor([0.75]), mask_maps=self._maps(1))

    def _maps(self, count: int) -> Tensor | None:
        return torch.ones(count, 28, 28) if self.settings.masks else None


@pytest.fixture(autouse=True)
def dark_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "dark", Dark)


def detector(**settings: Any) -> Detector:
    return Detector(
        Dark(2, DarkSettings(**settings)), Transform(), ("light", "dark"), info={"metrics": {"AP": 1}}
    )


def picture(dark: bool = True) -> np.ndarray:
    """40 high and 60 wide, white; a black rectangle ``10 20 30 40``, thus 400 pixels round (20, 30)."""
    pixels = np.full((40, 60, 3), 255, dtype=np.uint8)
    if dark:
        pixels[20:40, 10:30] = 0
    return pixels


BOX = torch.tensor([[10.0, 20.0, 30.0, 40.0]])


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    path = tmp_path / "bilder ü" / "ein bild.png"
    path.parent.mkdir()
    Image.fromarray(picture()).save(path)
    return path


def test_every_kind_of_image_gives_the_same_objects(image_file: Path) -> None:
    pixels = picture()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    alpha = np.dstack([pixels, np.zeros((40, 60), np.uint8)])
    kinds: list[Any] = [
        image_file,
        str(image_file),
        Image.fromarray(pixels),
        Image.fromarray(pixels[:, :, 0]),
        Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257),
        pixels,
        pixels[:, :, 0],
        alpha,
        pixels.astype(np.uint16) * 257,
        (pixels / 255).astype(np.float32),
        pixels / 255,
        tensor,
        tensor[:1],
        tensor / 255,
        (tensor / 255).bfloat16(),
    ]
    results = detector().predict(kinds)
    assert len(results) == len(kinds)
    for found in results:
        assert_close(found.boxes, BOX)
        assert found.size == (40, 60)
        assert found.names == ["dark"]
        assert found.masks is not None
        assert_close(found.masks.areas(), torch.tensor([400.0]))
    assert [r.path for r in results[:3]] == [image_file, image_file, None]


def test_a_single_image_gives_a_list_of_one(image_file: Path) -> None:
    for image in (image_file, str(image_file), picture(), torch.zeros(3, 8, 8), Image.fromarray(picture())):
        assert len(detector().predict(image)) == 1
    assert detector().predict([]) == []


def test_coordinates_are_those_of_the_image_whatever_it_was_resized_to() -> None:
    large = Detector(Dark(2), Transform(short_side=80), ("light", "dark"))
    found = large.predict(picture())[0]
    assert_close(found.boxes, BOX, atol=1.0, rtol=0)
    assert found.size == (40, 60)


def test_batches_give_what_single_images_give() -> None:
    images = [picture(), picture(dark=False), picture()[10:, 5:]]
    one_by_one, batched = detector(), detector()
    single = one_by_one.predict(images)
    together = batched.predict(images, batch_size=2)
    assert one_by_one.network.batch_sizes == [1, 1, 1]
    assert batched.network.batch_sizes == [2, 1]
    assert [len(s) for s in single] == [1, 0, 1]
    for a, b in zip(single, together, strict=True):
        assert_close(a.boxes, b.boxes)
    assert_close(single[2].boxes, BOX - torch.tensor([5.0, 10.0, 5.0, 10.0]))


def test_min_score_and_max_detections_reach_the_network() -> None:
    assert len(detector().predict(picture(), min_score=0.76)[0]) == 0
    assert len(detector().predict(picture(), min_score=0.75)[0]) == 1
    strict = Detector(Dark(2), Transform(), ("light", "dark"), min_score=0.8)
    assert len(strict.predict(picture())[0]) == 0
    assert len(strict.predict(picture(), min_score=0.0)[0]) == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 40, 60), np.uint8), r"must be \[H, W\], .*got \[3, 40, 60\]"),
        (np.zeros((0, 4, 3), np.uint8), "got .0, 4, 3."),
        (np.full((4, 4), 255.0), r"must lie in \[0, 1\]; got 255 to 255"),
        (np.full((4, 4), np.nan), r"must lie in \[0, 1\]; got nan"),
        (np.zeros((4, 4), complex), "integers or floats; got complex128"),
        (torch.zeros(4, 4), r"tensor must be \[3, H, W\]; got \[4, 4\]"),
        ([None], "expected a path, .* got NoneType"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector().predict(image)


@pytest.mark.parametrize("setting", [{"min_score": 1.5}, {"max_detections": 0}, {"batch_size": 0}])
def test_settings_out_of_range_are_refused_by_name(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        detector().predict(picture(), **setting)


def test_a_saved_detector_loads_equal(tmp_path: Path) -> None:
    original = Detector(
        Dark(2, DarkSettings(threshold=0.25)),
        Transform(short_side=99),
        ("a", "ü"),
        0.3,
        {"metrics": {"AP": 0.5}},
    )
    loaded = load(original.save(tmp_path / "m.safetensors"))
    assert isinstance(loaded.network, Dark)
    assert loaded.network.settings == DarkSettings(threshold=0.25)
    assert not loaded.network.training
    assert (loaded.transform, loaded.class_names, loaded.min_score) == (
        Transform(short_side=99),
        ("a", "ü"),
        0.3,
    )
    assert loaded.info["metrics"] == {"AP": 0.5}
    assert loaded.info["versions"].keys() >= {"torch", "torchvision"}
    assert_close(loaded.network.weight, original.network.weight)
    again = load(loaded.save(tmp_path / "n.safetensors"))
    assert again.info == loaded.info


def test_other_weights_can_be_stored_in_place_of_the_networks(tmp_path: Path) -> None:
    half = {"weight": torch.tensor([0.5, 1.5], dtype=torch.float16)}
    loaded = load(detector().save(tmp_path / "m.safetensors", half))
    assert_close(loaded.network.weight, torch.nn.Parameter(torch.tensor([0.5, 1.5])))


def test_a_runs_checkpoint_gives_its_averaged_weights(tmp_path: Path) -> None:
    """Beside the weights, a run's last checkpoint holds their average and the optimiser's state."""
    tensors = {"network.weight": torch.zeros(2), "optimizer.0.step": torch.tensor(3)}
    checkpoint.save(tmp_path / "last.safetensors", tensors, detector().describe())
    assert load(tmp_path).network.weight.tolist() == [0, 0]
    tensors["average.weight"] = torch.ones(2)
    checkpoint.save(tmp_path / "last.safetensors", tensors, detector().describe())
    assert load(tmp_path).network.weight.tolist() == [1, 1]
    detector().save(tmp_path / "best.safetensors")
    assert load(str(tmp_path)).network.weight.tolist() == [0, 1]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model in this folder; expected best\.safetensors"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load(tmp_path / "none.safetensors")
    checkpoint.save(tmp_path / "bare.safetensors", {}, {})
    with pytest.raises(ValueError, match=r"bare\.safetensors: no detector: its metadata lacks architecture"):
        load(tmp_path / "bare.safetensors")
    described = detector().describe()
    checkpoint.save(tmp_path / "a.safetensors", {}, {**described, "architecture": "mask"})
    with pytest.raises(ValueError, match=r"a\.safetensors: architecture 'mask' is unknown; expected one of"):
        load(tmp_path / "a.safetensors")
    checkpoint.save(tmp_path / "b.safetensors", {"other": torch.zeros(1)}, described)
    with pytest.raises(ValueError, match=r"b\.safetensors: made by another version"):
        load(tmp_path / "b.safetensors")
    checkpoint.save(tmp_path / "c.safetensors", {}, {**described, "model": {"thresh": 1}})
    with pytest.raises(ValueError, match=r"c\.safetensors.*model\.thresh: .* did you mean model\.threshold"):
        load(tmp_path / "c.safetensors")


def test_a_bare_name_asks_for_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from rcnn import weights

    published = {"maskrcnn_resnet50_fpn_coco": detector()}
    monkeypatch.setattr(weights, "load_published", published.__getitem__, raising=False)
    assert load("maskrcnn_resnet50_fpn_coco").class_names == ("light", "dark")
    with pytest.raises(FileNotFoundError, match="mask_r: no such file or folder, and no published model"):
        load("mask_r")


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_objects_are_saved_as_the_ending_says(image_file: Path, tmp_path: Path) -> None:
    found = detector().predict(image_file)[0]
    results = json.loads(found.save(tmp_path / "r" / "a.json").read_text())
    assert results[0]["bbox"] == [10, 20, 20, 20]
    assert results[0]["image_id"] == "ein bild.png"
    assert rows(save_instances(found, tmp_path / "a.CSV")) == [
        list(predict.OBJECT_COLUMNS),
        ["ein bild.png", "dark", "0.7500", "10.00", "20.00", "30.00", "40.00", "400.00", "20.00", "30.00"],
    ]
    for name in ("a.png", "a.jpg"):
        with Image.open(save_instances(found, tmp_path / name)) as overlay:
            assert overlay.width / overlay.height == 60 / 40
    with pytest.raises(ValueError, match=r"unknown ending '\.tiff'"):
        found.save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="an overlay needs the image"):
        detector().predict(picture())[0].save(tmp_path / "b.png")


def test_area_and_centroid_are_the_masks() -> None:
    """An L of three pixels at (4, 2), (4, 3), (5, 3) [x, y]: its centre is not its box's."""
    bitmap = torch.zeros(1, 8, 8)
    bitmap[0, 2:4, 4] = 1
    bitmap[0, 3, 5] = 1
    masks = Masks.from_dense(bitmap)
    found = Instances(
        (8, 8), masks.boxes(), torch.tensor([0]), torch.tensor([0.5]), masks, class_names=("l",)
    )
    x, y = (4.5 + 4.5 + 5.5) / 3, (2.5 + 3.5 + 3.5) / 3
    assert predict.object_rows(found) == [
        ["l", "0.5000", "4.00", "2.00", "6.00", "4.00", "3.00", f"{x:.2f}", f"{y:.2f}"]
    ]
    boxes_only = Instances((8, 8), masks.boxes(), torch.tensor([0]), class_names=("l",))
    assert predict.object_rows(boxes_only)[0][-3:] == ["4.00", "5.00", "3.00"]
    assert predict.object_rows(Instances.empty((8, 8))) == []


def test_a_folder_becomes_overlays_and_tables(tmp_path: Path) -> None:
    folder = tmp_path / "in put"
    (folder / "b").mkdir(parents=True)
    Image.fromarray(picture()).save(folder / "b" / "zwei ä.png")
    Image.fromarray(picture(dark=False)).save(folder / "empty.tif")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 this is no picture")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    calls: list[tuple[int, int]] = []
    out = folder / "out"
    summary = predict_to_files(detector(), [folder], out, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert (summary.images, summary.counts) == (2, {"light": 0, "dark": 1})
    assert len(summary.failed) == 1
    assert "broken.jpg" in summary.failed[0]
    results = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    assert [(r["image_id"], r["category_id"], r["score"]) for r in results] == [("b/zwei ä.png", 2, 0.75)]
    assert_close(Masks.from_rle([results[0]["segmentation"]], (40, 60)).boxes(), BOX)
    assert rows(out / "objects.csv")[1:] == [
        ["b/zwei ä.png", "dark", "0.7500", "10.00", "20.00", "30.00", "40.00", "400.00", "20.00", "30.00"]
    ]
    assert rows(out / "counts.csv") == [
        ["image", "class", "count"],
        ["b/zwei ä.png", "light", "0"],
        ["b/zwei ä.png", "dark", "1"],
        ["empty.tif", "light", "0"],
        ["empty.tif", "dark", "0"],
    ]
    written = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    tables = ["counts.csv", "objects.csv", "predictions.json"]
    assert written == [*tables[:1], tables[1], "overlays/b/zwei ä.png", "overlays/empty.png", tables[2]]
    again = predict_to_files(detector(), [folder], out)
    assert again.images == 2, "what an earlier run wrote must not be taken for input"


def test_no_images_found_still_makes_valid_tables(tmp_path: Path) -> None:
    Image.fromarray(picture(dark=False)).save(tmp_path / "a.png")
    predict_to_files(detector(masks=False), [tmp_path / "a.png"], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []
    assert rows(tmp_path / "out" / "objects.csv") == [list(predict.OBJECT_COLUMNS)]


def test_an_interruption_keeps_what_is_done_and_a_failure_what_was(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.fromarray(picture()).save(tmp_path / f"{name}.png")

    def stop(error: BaseException) -> Any:
        def progress(done: int, of: int) -> None:
            if done == 2:
                raise error

        return progress

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict_to_files(detector(), [tmp_path], out, progress=stop(KeyboardInterrupt()))
    before = json.loads((out / "predictions.json").read_text())
    assert [r["image_id"] for r in before] == ["a.png", "b.png"]
    predict_to_files(detector(), [tmp_path / "c.png"], out)
    with pytest.raises(OSError, match="full"):
        predict_to_files(detector(), [tmp_path], out, progress=stop(OSError("full")))
    assert [r["image_id"] for r in json.loads((out / "predictions.json").read_text())] == ["c.png"]
    assert not list(out.glob(".*"))


def test_images_are_told_apart(tmp_path: Path) -> None:
    for name in ("x/1/a.png", "x/2/a.png", "y/1/a.png", "y/1/b.JPG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    x1, x2, y1 = tmp_path / "x/1", tmp_path / "x/2", tmp_path / "y/1"
    found = find_images([x1, x2, y1, x1 / "a.png", tmp_path / "y"])
    assert found == {
        "a.png": x1 / "a.png",
        "2/a.png": x2 / "a.png",
        "1/a.png": y1 / "a.png",
        "b.JPG": y1 / "b.JPG",
    }
    assert predict._overlay_names(["a.png", "a.JPG", "b/a.png", "c.jpg", "a"]) == {
        "a.png": "a.png.png",
        "a.JPG": "a.JPG.png",
        "b/a.png": "b/a.png",
        "c.jpg": "c.png",
        "a": "a.png",
    }


def test_missing_inputs_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape("nowhere: no such image or folder")):
        predict_to_files(detector(), [tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no images in this folder; looked for \.avif"):
        predict_to_files(detector(), [tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
