"""Files of other programs: what is read of them, and that nothing in them is run."""

import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from rcnn.importers.unpickle import InertObject, read_weights


def test_pickled_arrays(tmp_path: Path) -> None:
    """The form of Detectron2's zoo; floats in full precision, integers as they are, scalars too."""
    weight = np.arange(6, dtype=np.float16).reshape(2, 3)
    model = OrderedDict(a=weight, n=np.array(5), empty=np.zeros((0, 4), np.float32), turned=weight.T)
    model["swapped"] = np.arange(3, dtype=">f4")  # the byte order of another machine
    for protocol in range(6):
        content = {"model": model, "__author__": "Detectron2 Model Zoo", "x": np.float32(2)}
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(content, protocol))
        found = read_weights(tmp_path / "m.pkl")
        assert found["__author__"] == "Detectron2 Model Zoo"
        assert found["x"] == 2
        assert_close(found["model"]["a"], torch.arange(6.0).view(2, 3))
        assert_close(found["model"]["turned"], torch.arange(6.0).view(2, 3).T)
        assert found["model"]["n"].shape == ()
        assert found["model"]["n"].dtype == torch.int64
        assert found["model"]["empty"].shape == (0, 4)
        assert_close(found["model"]["swapped"], torch.arange(3.0))


def test_pickled_by_python_2(tmp_path: Path) -> None:
    """Written there, arrays are byte strings: a pickle of ``{'a': np.float32([1, 2])}`` by hand."""
    raw = struct.pack("<2f", 1, 2)
    text = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    (tmp_path / "m.pkl").write_bytes(text)
    assert_close(read_weights(tmp_path / "m.pkl")["a"], torch.tensor([1.0, 2.0]))


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_no_code_of_a_pickle_runs(tmp_path: Path) -> None:
    target = tmp_path / "touched"
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"model": {"a": Touch(target)}}))
    with pytest.raises(ValueError, match=r"bad\.pkl: .*asks for builtins\.exec, where only numpy arrays"):
        read_weights(tmp_path / "bad.pkl")
    for legacy in (False, True):
        file = tmp_path / f"bad{legacy}.pth"
        torch.save({"a": Touch(target)}, file, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match=r"bad.*\.pth: .*asks for (builtins\.)?exec"):
            read_weights(file)
    assert not target.exists()


@pytest.mark.parametrize(
    "value",
    [Path("a"), np.array([object()]), np.array(["text"]), torch.ones(1)],
    ids=["path", "objects", "texts", "tensor"],
)
def test_only_arrays_of_numbers(value: Any, tmp_path: Path) -> None:
    (tmp_path / "odd.pkl").write_bytes(pickle.dumps({"a": value}))
    with pytest.raises(ValueError, match=r"odd\.pkl: cannot be read as weights \(it (asks for|has an array)"):
        read_weights(tmp_path / "odd.pkl")


@pytest.fixture
def strange(tmp_path: Path) -> Any:
    """A class of a program that is not there when the file is read; it says when its code runs."""
    module: Any = types.ModuleType("mmengine.logging.history_buffer")
    ran: list[str] = []

    class HistoryBuffer:
        def __init__(self) -> None:
            self.history = np.arange(3.0)

        def mean(self) -> None: ...

        def __getstate__(self) -> Any:
            # As MMEngine's: methods of the class are part of the state.
            return {**vars(self), "statistics_methods": OrderedDict(mean=HistoryBuffer.mean)}

        def __setstate__(self, state: Any) -> None:
            ran.append("setstate")

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = module.__name__, "HistoryBuffer.mean"
    module.HistoryBuffer = HistoryBuffer
    names = ("mmengine", "mmengine.logging", module.__name__)
    sys.modules.update(dict.fromkeys(names, module))
    yield HistoryBuffer, ran
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_objects_of_another_program_stay_away(legacy: bool, strange: Any, tmp_path: Path) -> None:
    """A checkpoint as MMEngine saves it, and in the form that MMDetection 2 published: the weights come."""
    history, ran = strange
    content = {
        "meta": {"cfg": "model = dict()", "dataset_meta": {"classes": ("a", "b")}, "path": Path("x")},
        "state_dict": OrderedDict(a=torch.ones(2, 3, dtype=torch.float16), n=torch.tensor(4)),
        "message_hub": {"log_scalars": OrderedDict(loss=history())},
    }
    file = tmp_path / "epoch_12.pth"
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    found = read_weights(file)
    assert_close(found["state_dict"]["a"], torch.ones(2, 3))
    assert found["state_dict"]["n"].dtype == torch.int64
    assert found["meta"]["dataset_meta"]["classes"] == ("a", "b")
    assert isinstance(found["meta"]["path"], InertObject)
    assert isinstance(found["message_hub"]["log_scalars"]["loss"], InertObject)
    assert ran == []


def test_safetensors(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.float16)}, tmp_path / "m.safetensors")
    assert_close(read_weights(tmp_path / "m.safetensors")["a"], torch.ones(2))


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pkl: no such weights file"):
        read_weights(tmp_path / "none.pkl")
    for name, content in {
        "a.pkl": b"hello",
        "b.pth": b"hello",
        "c.safetensors": b"\x10",
        "d.pth": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: cannot be read as weights"):
            read_weights(tmp_path / name)
    torch.save({"a": torch.ones(1000)}, tmp_path / "cut.pth")
    cut = (tmp_path / "cut.pth").read_bytes()[:2000]
    (tmp_path / "cut.pth").write_bytes(cut)
    with pytest.raises(ValueError, match=r"cut\.pth: cannot be read"):
        read_weights(tmp_path / "cut.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("code/x.py", "pass")
    with pytest.raises(ValueError, match="TorchScript is not read"):
        read_weights(tmp_path / "other.pth")
    torch.save(torch.ones(1), tmp_path / "one.pth")
    with pytest.raises(ValueError, match=r"one\.pth: holds one Tensor, expected named tensors"):
        read_weights(tmp_path / "one.pth")
