"""``rcnn predict --to parquet`` and ``--status``."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bulk_job import images, saved_model
from rcnn.bulk import read_predictions
from rcnn.cli import app
from rcnn.cli.bulk import _duration
from rcnn.cli.console import with_ray_address


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_a_job_and_its_status(tmp_path: Path) -> None:
    model, folder = saved_model(tmp_path), images(tmp_path / "images", 5, broken=True)
    out = tmp_path / "out"
    command = (model, folder, "--out", out, "--to", "parquet", "--rows-per-shard", 2, "--device", "cpu")
    first = run(*command, "--shards", "1/2")
    assert first.exit_code == 0, first.output
    assert "1 shards are still missing" in first.output
    assert "3 of 5 images done, 0 failed" in run("--status", out).output
    second = run(*command)
    assert second.exit_code == 1
    assert "2 images predicted" in second.output
    assert "1 images could not be predicted" in second.output
    assert "5 of 5 images done, 1 failed" in run("--status", out).output
    assert len(list(read_predictions(str(out)))) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nuclei", "a.png", "--to", "parquet"), "expected IMAGES, --out and --to parquet alone"),
        (("nuclei", "a.png", "--out", "o", "--to", "parquet,coco"), "--to parquet,coco: expected"),
        (("nuclei", "a.png", "--out", "o", "--to", "parquet", "--svd", "4,4"), "--to parquet --svd"),
        (("nuclei", "a.png", "--out", "o", "--to", "parquet", "--measure", "shape"), "parquet --measure"),
        (("nuclei", "a.png", "--ray", "local"), "--ray: only for --to parquet"),
        (("nuclei", "a.png", "--ray"), "--ray: only for --to parquet"),
        (("nuclei", "--ray", "a.png"), "--ray: only for --to parquet"),
        (("nuclei", "a.png", "--shards", "1/2"), "--shards: only for --to parquet"),
        (("nuclei", "a.png", "--out", "o", "--to", "parquet", "--actors", "2"), "add --ray"),
        (("nuclei", "a.png", "--out", "o", "--to", "parquet", "--shards", "2"), "--shards 2: expected i/n"),
        (("nuclei", "a.png", "--out", "o", "--to", "parquet"), "a.png: no such image, folder or list"),
        (("--status", "nowhere"), "nowhere: no job of bulk prediction there"),
        ((), "give the MODEL to predict with"),
    ],
)
def test_requests_that_are_refused(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1
    assert said in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("seconds", "text"), [(12, "12 s"), (125, "2 min 5 s"), (7500, "2 h 5 min"), (273600, "3 d 4 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ""),
        ("m --ray", "m --ray local"),
        ("m --ray --actors 2", "m --ray local --actors 2"),
        ("m --ray images/", "m --ray local images/"),
        ("m --ray auto images/", "m --ray auto images/"),
        ("m --ray 10.0.0.7:6379", "m --ray 10.0.0.7:6379"),
        ("m --ray ray://head:10001", "m --ray ray://head:10001"),
        ("m --ray=auto", "m --ray=auto"),
    ],
)
def test_ray_needs_no_address(words: str, expected: str) -> None:
    assert with_ray_address(words.split()) == expected.split()
