"""Dotted paths: what they resolve to, and which a file may name."""

import sys
from pathlib import Path

import pytest

from rcnn.config import is_dotted_path, require_trust, resolve


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("my_package.nets:build", True),
        ("nets:Build2", True),
        ("timm:resnet18", False),  # a model of timm, not an object in it
        ("resnet50", False),
        ("nets:build.it", False),
        ("C:\\nets", False),
        ("https://a.b", False),
        (7, False),
    ],
)
def test_what_is_a_dotted_path(value: object, expected: bool) -> None:
    assert is_dotted_path(value) == expected


def test_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here.py").write_text("def build(): return 3\n")
    (tmp_path / "broken.py").write_text("import is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("here:build")() == 3
    with pytest.raises(ValueError, match="here:built: here has no built; it has build"):
        resolve("here:built")
    with pytest.raises(ValueError, match=r"there is no module here\.nets; install its package"):
        resolve("here.nets:build")
    with pytest.raises(ValueError, match="'here' is not a dotted path; expected module:name"):
        resolve("here")
    with pytest.raises(ModuleNotFoundError, match="is_not_there"):  # the module's own fault
        resolve("broken:build")


def test_a_file_decides_on_no_import() -> None:
    values = {"model": {"backbone": {"name": "own_pkg.nets:build"}, "lists": [["own_pkg.nets:build"]]}}
    with pytest.raises(ValueError, match=r"a\.file: it names own_pkg\.nets:build, .*--trust own_pkg .*"):
        require_trust(values, "a.file")
    with pytest.raises(ValueError, match="own_pkg"):
        require_trust(values, "a.file", ["own", "own_pkg.net"])
    require_trust(values, "a.file", ["own_pkg"])
    require_trust(values, "a.file", ["own_pkg.nets"])
    require_trust({"name": f"{__name__}:test"}, "a.file")  # imported already
    require_trust({"name": "timm:resnet18", "text": "a: b"}, "a.file")
    assert "subprocess" in sys.modules
    with pytest.raises(ValueError, match="subprocess:Popen"):
        require_trust("subprocess:Popen", "a.file")
