"""Checkpoints: what goes in comes out, nothing unsafe is read, and a failure leaves the old file whole."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from rcnn.io import checkpoint

METADATA = {
    "architecture": "mask_rcnn",
    "class_names": ["cell", "größe"],
    "metrics": {"AP": 0.5},
    "none": None,
}


def test_tensors_and_metadata_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {
        "float": torch.arange(6.0).view(2, 3),
        "half": torch.tensor([0.1, 65504.0], dtype=torch.float16),
        "brain": torch.tensor([0.1, 3e38], dtype=torch.bfloat16),
        "int": torch.tensor([2**62, -1]),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
    }
    path = checkpoint.write_checkpoint(tmp_path / "new" / "ü b.safetensors", tensors, METADATA)
    loaded, metadata = checkpoint.read_checkpoint(path)
    assert metadata == METADATA
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_close(loaded[name], tensor, rtol=0, atol=0)
    assert checkpoint.read_metadata(path) == METADATA
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_shared_strided_and_partial_memory_is_stored_by_value(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    tensors = {"whole": whole, "tied": whole, "part": whole[1:], "transposed": whole.T, "column": whole[:, 1]}
    tensors["channels_last"] = torch.randn(1, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors["gradient"] = torch.nn.Parameter(torch.ones(2))
    loaded, _ = checkpoint.read_checkpoint(
        checkpoint.write_checkpoint(tmp_path / "a.safetensors", tensors, {})
    )
    for name, tensor in tensors.items():
        assert_close(loaded[name], tensor.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_whatever_its_name(tmp_path: Path, name: str, zipped: bool) -> None:
    path = tmp_path / name
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"{name}: a pickle .* can run any code"):
        checkpoint.read_checkpoint(path)


def test_a_header_length_that_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    for length in range(600, 680):  # one of the files has a header of 640 = 0x0280 bytes: pickle protocol 2
        path = checkpoint.write_checkpoint(
            tmp_path / "a.safetensors", {"a": torch.zeros(1)}, {"x": "y" * (length - 150)}
        )
        starts = path.read_bytes()[:2]
        checkpoint.read_checkpoint(path)
        if starts == b"\x80\x02":
            return
    pytest.fail("no header of 640 bytes was made")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    path = checkpoint.write_checkpoint(tmp_path / "cut.safetensors", {"a": torch.zeros(1000)}, METADATA)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cut\.safetensors: not a safetensors file, or truncated"):
        checkpoint.read_checkpoint(path)


def test_foreign_files_and_other_versions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="not a checkpoint of rcnn"):
        checkpoint.read_checkpoint(tmp_path / "bare.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is not what you want")
    with pytest.raises(ValueError, match="not a safetensors file"):
        checkpoint.read_checkpoint(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError, match="none"):
        checkpoint.read_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="is a folder"):
        checkpoint.read_checkpoint(tmp_path)
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    path = checkpoint.write_checkpoint(tmp_path / "a.safetensors", {}, {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="checkpoint format '3', expected 1 to 2"):
        checkpoint.read_checkpoint(path)


def test_metadata_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be JSON values"):
        checkpoint.write_checkpoint(tmp_path / "a.safetensors", {}, {"path": tmp_path})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """A process that may write 50 kB a file stands for the full disk: its write fails half way."""
    script = """
        import resource, sys, torch
        from rcnn.io import checkpoint
        path = sys.argv[1]
        checkpoint.write_checkpoint(path, {"a": torch.ones(3)}, {"step": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            checkpoint.write_checkpoint(path, {"a": torch.zeros(100_000)}, {"step": 2})
        except OSError as error:
            print(error)
    """
    path = tmp_path / "last.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], capture_output=True, text=True, check=True
    )
    assert "could not be written" in done.stdout
    assert str(path) in done.stdout
    tensors, metadata = checkpoint.read_checkpoint(path)
    assert metadata == {"step": 1}
    assert_close(tensors["a"], torch.ones(3))
    assert os.listdir(tmp_path) == ["last.safetensors"]  # noqa: PTH208


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written") as caught:
        checkpoint.write_checkpoint(tmp_path / "file" / "a.safetensors", {}, {})
    assert "a.safetensors" in str(caught.value)
