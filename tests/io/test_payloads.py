"""One harmless payload for each kind of file: opening it must not run it, nor take what it only declares.

Programs (``.pt2``), graphs, pickles, XML and YAML have tests of their own beside their readers.
"""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from rcnn.data import archives, external_proposals
from rcnn.data.external_proposals import read_proposals
from rcnn.data.formats.open import open_data
from rcnn.importers.unpickle import read_weights
from rcnn.io.download import read_tensors

TRACE = "left_a_trace"


class Payload:
    """Reading its pickle makes a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, (TRACE,)


@pytest.fixture(autouse=True)
def no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / TRACE).exists()


def _objects(file: Path) -> None:
    rows: Any = np.empty(1, object)
    rows[0] = Payload()
    np.savez(file, images=rows, counts=np.array([1]), boxes=np.zeros((1, 4)))


def _mat(file: Path) -> None:
    rows: Any = np.empty(1, object)
    rows[0] = "__import__('os').mkdir('left_a_trace')"
    savemat(file, {"boxes": rows, "images": rows, "other": rows})


def _weights(file: Path) -> None:
    torch.save({"a": Payload()}, file)


def _seg(file: Path) -> None:
    rows: Any = np.empty(1, object)
    rows[0] = Payload()
    np.save(file, rows, allow_pickle=True)


READERS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], Any]]] = {
    "arrays of objects": ("a.npz", _objects, read_proposals),
    "MATLAB": ("a.mat", _mat, read_proposals),
    "weights": ("a.pth", _weights, read_tensors),
    "Cellpose": ("a_seg.npy", _seg, lambda file: open_data(file.parent, format="cellpose")),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_payload_is_refused(kind: str, tmp_path: Path) -> None:
    name, make, read = READERS[kind]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=r"a(_seg)?\.|a_seg|cellpose"):
        read(tmp_path / name)


def test_a_payload_in_weights_becomes_an_inert_object(tmp_path: Path) -> None:
    torch.save({"a": Payload(), "b": torch.ones(2)}, tmp_path / "a.pth")
    try:
        found = read_weights(tmp_path / "a.pth")
    except ValueError as error:
        assert "a.pth" in str(error)  # noqa: PT017
    else:
        assert found["b"].tolist() == [1, 1]


def test_the_payloads_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    _weights(tmp_path / "a.pth")
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert (tmp_path / "elsewhere" / TRACE).exists()


def _link(archive: tarfile.TarFile) -> None:
    info = tarfile.TarInfo("VOCdevkit/link")
    info.type, info.linkname = tarfile.SYMTYPE, "../../outside"
    archive.addfile(info)


def _absolute(archive: tarfile.TarFile) -> None:
    info = tarfile.TarInfo("VOCdevkit/link")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc"
    archive.addfile(info)


def _outside(archive: tarfile.TarFile) -> None:
    info = tarfile.TarInfo(f"VOCdevkit/../../../{TRACE}")
    info.size = 1
    archive.addfile(info, io.BytesIO(b"a"))


def _device(archive: tarfile.TarFile) -> None:
    info = tarfile.TarInfo("VOCdevkit/device")
    info.type = tarfile.CHRTYPE
    archive.addfile(info)


@pytest.mark.parametrize("add", [_link, _absolute, _outside, _device])
def test_archives_stay_in_their_folder(add: Callable[[tarfile.TarFile], None], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive)
    with pytest.raises(ValueError, match=r"a\.tar cannot be unpacked"):
        archives._unpack(tmp_path / "a.tar", tmp_path / "deep" / "data")
    assert not [path for path in (tmp_path / "deep").rglob("*") if path.is_symlink() or path.is_file()]


def test_arrays_that_take_more_than_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros(500_000), counts=np.zeros(1), boxes=np.zeros(1))
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    monkeypatch.setattr(external_proposals, "MAX_BYTES", 1_000_000)
    with pytest.raises(ValueError, match=r"a\.npz: not a proposal file: .*its arrays take .* GiB, the limit"):
        read_proposals(tmp_path / "a.npz")


def test_weights_that_declare_more_than_they_hold(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1, dtype=torch.float16).expand(2_000_000_000)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: a tensor of shape \[2000000000\] holds 1 numbers"):
        read_weights(tmp_path / "a.pth")
    # An archive of which the parts are compressed: torch stores them as they are.
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "b.pth")
    with zipfile.ZipFile(tmp_path / "b.pth") as old, zipfile.ZipFile(tmp_path / "c.pth", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match=r"c\.pth: .*its parts are said to have 40\d,\d+ bytes, more"):
        read_weights(tmp_path / "c.pth")
