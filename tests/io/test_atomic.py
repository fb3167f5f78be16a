"""Files are replaced whole; devices, pipes and links stay what they are."""

import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rcnn.io.atomic import write_atomically

HERE = sys.platform != "win32"
pytestmark = pytest.mark.skipif(not HERE, reason="Windows has no such files")


def test_a_device_stays_a_device() -> None:
    write_atomically(Path("/dev/null"), b"content")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)  # noqa: PTH116


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "there" / "a.json", tmp_path / "a.json"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    target.unlink()
    write_atomically(link, b"newer")  # a link to nothing yet
    assert link.is_symlink()
    assert target.read_bytes() == b"newer"
    assert {path.name for path in tmp_path.rglob("*")} == {"there", "a.json"}


def test_a_pipe_gets_the_content(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"content")
    reader.join(10)
    assert found == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_shells_command_gets_the_content(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, rcnn.io.atomic as a; a.write_atomically(pathlib.Path(sys.argv[1]), b'content')"
    )
    command = f'"{sys.executable}" -c "{code}" >(cat > {tmp_path}/out); sleep 0.3; wait'
    subprocess.run(["bash", "-c", command], check=True)
    assert (tmp_path / "out").read_bytes() == b"content"


def test_a_dash_is_the_standard_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))
    write_atomically(Path("-"), b"content")
    assert written.getvalue() == b"content"
    assert not list(tmp_path.iterdir())


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"content")
    assert tmp_path.is_dir()
