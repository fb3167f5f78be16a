"""Jobs in an object store: S3 as moto serves it on this machine."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from bulk_job import images, saved_model
from rcnn.bulk import BulkOptions, JobError, job_status, predict_bulk, read_predictions
from rcnn.bulk.manifest import list_images
from rcnn.bulk.storage import Place
from rcnn.bulk.worker import WorkerOptions

moto = pytest.importorskip("moto.server", reason="needs moto")
OPTIONS, EXACT = BulkOptions(rows_per_shard=2), WorkerOptions(device="cpu", precision="float32")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """What follows a bucket's path in an address, so that the local server is asked."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    endpoint = quote(f"{host}:{port}", safe="")
    yield f"?scheme=http&endpoint_override={endpoint}&allow_bucket_creation=true"
    os.environ.clear()
    os.environ |= before
    server.stop()


def test_a_job_in_a_store_is_the_job_on_disk(store: str, tmp_path: Path) -> None:
    folder = images(tmp_path / "images", 5, broken=True)
    model = saved_model(tmp_path)
    here = tmp_path / "out"
    predict_bulk(model, str(folder), str(here), OPTIONS, worker=EXACT)
    bucket = Place.at(f"s3://plates{store}")
    bucket.filesystem.create_dir("plates")
    for path in folder.iterdir():
        (bucket / f"in/{path.name}").write(path.read_bytes())
    out = f"s3://found/job{store}"
    Place.at(out).filesystem.create_dir("found")
    first = predict_bulk(model, f"s3://plates/in{store}", out, OPTIONS, worker=EXACT, shards=(1, 2))
    assert (first.predicted, first.remaining, job_status(out).done) == (3, 1, 3)
    assert predict_bulk(model, f"s3://plates/in{store}", out, OPTIONS, worker=EXACT).predicted == 2
    rows = zip(read_predictions(out), read_predictions(str(here)), strict=True)
    for remote, local in rows:
        assert Path(remote.path).name.startswith(Path(local.path).name)
        assert (remote.sha256, remote.error is None) == (local.sha256, local.error is None)
        if local.instances is not None:
            assert remote.instances is not None
            assert remote.instances.to_coco(1) == local.instances.to_coco(1)
    with pytest.raises(JobError, match="min_score"):
        predict_bulk(model, f"s3://plates/in{store}", out, replace(OPTIONS, min_score=0.9), worker=EXACT)


def test_patterns_and_lists_in_a_store(store: str) -> None:
    bucket = Place.at(f"s3://lists{store}")
    bucket.filesystem.create_dir("lists")
    for name in ("a/1.png", "a/2.jpg", "a/notes.md", "a/.hidden.png"):
        (bucket / name).write(b"x")
    (bucket / "a/list.txt").write(b"1.png\n")
    assert [a.partition("?")[0] for a in list_images([f"s3://lists/a/*.png{store}"]).addresses] == [
        "s3://lists/a/.hidden.png", "s3://lists/a/1.png",
    ]  # fmt: skip
    assert len(list_images([f"s3://lists/a{store}"]).addresses) == 2
    assert [a.partition("?")[0] for a in list_images([f"s3://lists/a/list.txt{store}"]).addresses] == [
        "s3://lists/a/1.png"
    ]
    with pytest.raises(FileNotFoundError, match="no such image"):
        list_images([f"s3://lists/b.txt{store}"])
