"""Archives in the published layout, from a server on this machine, become folders that can be opened."""

import hashlib
import http.server
import io
import tarfile
import threading
from functools import partial

import pytest
from PIL import Image

from rcnn import open_data
from rcnn.data import archives
from rcnn.data.archives import Archive, get_data

XML = (
    "<annotation><filename>{0}.jpg</filename><size><width>40</width><height>30</height><depth>3</depth></size>"
    "<object><name>dog</name><difficult>0</difficult>"
    "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>25</ymax></bndbox></object></annotation>"
)


def packed(path, year, split, stems):
    """A tar file with these images of VOC's layout; its checksum as `get` takes it."""
    picture = io.BytesIO()
    Image.new("RGB", (40, 30), (90, 120, 30)).save(picture, "JPEG")
    root = f"VOCdevkit/VOC{year}"
    files = {f"{root}/JPEGImages/{stem}.jpg": picture.getvalue() for stem in stems}
    files |= {f"{root}/Annotations/{stem}.xml": XML.format(stem).encode() for stem in stems}
    files[f"{root}/ImageSets/Main/{split}.txt"] = "".join(f"{stem}\n" for stem in stems).encode()
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return "md5:" + hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Two years on a local server, in place of the published archives."""
    folder = tmp_path / "server"
    folder.mkdir()
    parts = [
        ("2007", "trainval", ["000001", "000002"]),
        ("2007", "test", ["000003"]),
        ("2012", "trainval", ["2008_1"]),
    ]
    digests = [packed(folder / f"{year}{split}.tar", year, split, stems) for year, split, stems in parts]

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        old, test, new = (
            Archive(f"{base}/{year}{split}.tar", digest, 1)
            for (year, split, _), digest in zip(parts, digests, strict=True)
        )
        published = {"voc2007": (old, test), "voc2012": (new,), "voc0712": (old, test, new)}
        monkeypatch.setattr(archives, "PUBLISHED", published)
        yield folder
        server.shutdown()
        thread.join()


def stems(path):
    return [str(record.image_id) for record in open_data(path).records]


def test_a_year_is_unpacked_and_its_parts_are_named_by_their_lists(served, tmp_path):
    said = []
    folder = get_data("voc2007", tmp_path / "out", said.append)
    assert folder == tmp_path / "out" / "VOCdevkit" / "VOC2007"
    assert stems(folder / "ImageSets" / "Main" / "trainval.txt") == ["000001", "000002"]
    assert stems(folder / "ImageSets" / "Main" / "test.txt") == ["000003"]
    assert open_data(folder).records[0].truth.boxes.tolist() == [[4.0, 5.0, 20.0, 25.0]]
    assert sum("downloading" in line for line in said) == 2


def test_what_is_there_is_not_fetched_again(served, tmp_path):
    folder = get_data("voc2007", tmp_path, print)
    for file in served.iterdir():
        file.unlink()
    assert get_data("voc2007", tmp_path, print) == folder


def test_both_years_are_trained_on_together(served, tmp_path):
    folder = get_data("voc0712", tmp_path, print)
    assert folder.name == "VOC0712"
    assert stems(folder / "ImageSets" / "Main" / "trainval.txt") == ["000001", "000002", "2008_1"]
    assert stems(folder / "ImageSets" / "Main" / "test.txt") == ["000003"]


def test_a_broken_archive_leaves_no_data_set(served, tmp_path):
    (served / "2007test.tar").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"2007test.tar: the download is not the published file"):
        get_data("voc2007", tmp_path / "out", print)
    assert not (tmp_path / "out" / "VOCdevkit").exists()


def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path):
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as archive:
        archive.addfile(tarfile.TarInfo("../../evil.txt"))
    with pytest.raises(ValueError, match=r"evil.tar cannot be unpacked"):
        archives._unpack(file, tmp_path / "in" / "here")
    assert not (tmp_path / "evil.txt").exists()


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data set 'coco': expected one of voc2007, voc2012, voc0712"):
        get_data("coco", tmp_path)
