"""Folders that are free."""

from pathlib import Path

from rcnn.io.folders import free_folder, has_content


def test_the_first_folder_that_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "found"
    assert free_folder(folder, has_content) == folder
    folder.mkdir()
    assert free_folder(folder, has_content) == folder, "an empty folder is free"
    (folder / "a.txt").touch()
    assert free_folder(folder, has_content) == tmp_path / "found-2"
    (tmp_path / "found-2").touch()
    assert free_folder(folder, has_content) == tmp_path / "found-3", "a file is in the way"
