"""Folders that are free."""

from pathlib import Path

import pytest

from rcnn.io.folders import free_folder, has_content, is_file, is_folder, is_link, is_there


def test_the_first_folder_that_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "found"
    assert free_folder(folder, has_content) == folder
    folder.mkdir()
    assert free_folder(folder, has_content) == folder, "an empty folder is free"
    (folder / "a.txt").touch()
    assert free_folder(folder, has_content) == tmp_path / "found-2"
    (tmp_path / "found-2").touch()
    assert free_folder(folder, has_content) == tmp_path / "found-3", "a file is in the way"


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "a\0b"])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    assert not is_file(tmp_path / name)
    assert not is_folder(tmp_path / name)
    assert not is_link(tmp_path / name)
    assert not is_there(tmp_path / name)


def test_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.touch()
    assert (is_file(file), is_folder(file), is_there(file)) == (True, False, True)
    (tmp_path / "b").symlink_to(tmp_path / "c")
    assert (is_link(file), is_link(tmp_path / "b"), is_there(tmp_path / "b")) == (False, True, False)
    assert (is_file(tmp_path), is_folder(tmp_path), is_there(tmp_path)) == (False, True, True)
