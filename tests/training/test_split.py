"""A folder of splits is trained on as it is, and the log says which split is used for what."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from rcnn.training.split import HoldOut, Sources, Split, open_split


def label_images(folder: Path, names: str, masks: str = "masks") -> None:
    """Images with two objects each; every file is different."""
    for name in names:
        numbers = np.zeros((20, 30), np.uint8)
        numbers[2:8, 3:9] = 1
        numbers[11:18, 12:25] = 2
        for part, array in (("images", numbers * 90 + ord(name) % 50), (masks, numbers)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(folder / part / f"{name}.png")


def opened(data: Path, val: Path | None = None) -> Split:
    console = Console(quiet=True)
    return open_split(
        Sources(data, val), skip_bad=False, held_out=HoldOut(0), boxes_only=False, console=console
    )


def names(split: Split) -> tuple[list[str], list[str]]:
    train, val = ([record.path.stem for record in part.records] for part in (split.train, split.val))
    return train, val


@pytest.mark.parametrize("val", ["valid", "val", "Validation"])
def test_train_and_validation_are_taken(tmp_path: Path, val: str) -> None:
    for part, files in (("train", "abc"), (val, "d"), ("test", "e")):
        label_images(tmp_path / part, files)
    split = opened(tmp_path)
    assert names(split) == (["a", "b", "c"], ["d"])
    said = f"has train, {val}, test: training on train, validation on {val}; not used: test"
    assert said in split.messages[0]


def test_without_a_validation_split_a_part_is_held_out(tmp_path: Path) -> None:
    label_images(tmp_path / "train", "abcd")
    label_images(tmp_path / "test", "e")
    split = opened(tmp_path)
    assert sorted(name for part in names(split) for name in part) == ["a", "b", "c", "d"]
    assert "training on train, a part of it is held out for validation; not used: test" in split.messages[0]


def test_named_validation_data_win(tmp_path: Path) -> None:
    for part, files in (("train", "abc"), ("val", "d"), ("other", "f")):
        label_images(tmp_path / part, files)
    split = opened(tmp_path, tmp_path / "other")
    assert names(split) == (["a", "b", "c"], ["f"])
    assert split.messages[0].endswith("training on train; not used: val")


def test_a_folder_without_splits_says_nothing(tmp_path: Path) -> None:
    label_images(tmp_path, "abcd")
    assert not any(line.startswith("splits:") for line in opened(tmp_path).messages)
