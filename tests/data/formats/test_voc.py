"""Pascal VOC: corners, classes, images found, and every fault that a folder can have."""

from pathlib import Path

import pytest
from PIL import Image

from annotated_images import boxes, image, put
from conftest import real_data
from rcnn.data.formats.open import open_data, open_splits
from rcnn.data.formats.voc import read_voc

GOOD = (1, 1, 10, 5)


def thing(box: tuple[object, ...] = GOOD, name: str = "cat", difficult: int = 0) -> str:
    x1, y1, x2, y2 = box
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
    )


def add(folder: Path, *things: str, stem: str = "a", size: str = "", filename: str | None = None) -> Path:
    """An image of 20 by 10 pixels and its annotation file; the latter is returned."""
    for name in ("Annotations", "JPEGImages"):
        (folder / name).mkdir(exist_ok=True)
    Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / f"{stem}.jpg")
    named = f"<filename>{filename or stem + '.jpg'}</filename>"
    xml = folder / "Annotations" / f"{stem}.xml"
    xml.write_text(f"<annotation>{named}{size}\n{''.join(things)}\n</annotation>", "utf-8")
    return xml


def test_lists_of_names_with_spaces(tmp_path: Path) -> None:
    for stem in ("my image 1", "b"):
        add(tmp_path, thing(), stem=stem)
    listing = tmp_path / "ImageSets" / "Main" / "cat_train.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("\ufeffmy image 1\nb -1\n", "utf-8")
    data = open_data(listing)
    assert ([r.image_id for r in data.records], data.problems) == (["my image 1", "b"], ())


def test_names_in_other_letters(tmp_path: Path) -> None:
    xml = add(tmp_path, thing(), stem="A", filename="a.JPG")
    xml.rename(xml.with_name("other.xml"))
    assert read_voc(tmp_path).problems == ()


def test_corners_are_made_continuous(tmp_path: Path) -> None:
    add(tmp_path, thing(), thing((5, 2, 20, 10), "dog", 1))
    dataset = read_voc(tmp_path)
    assert dataset.problems == ()
    assert dataset.class_names == ("cat", "dog")
    sample = dataset[0]
    assert sample.image_id == "a"
    assert sample.image.shape == (10, 20, 3)
    assert sample.truth.boxes.tolist() == [[0, 0, 10, 5], [4, 1, 20, 10]]
    assert sample.truth.labels.tolist() == [0, 1]
    assert sample.truth.difficult is not None
    assert sample.truth.difficult.tolist() == [False, True]


def test_zero_based_corners_are_taken_silently(tmp_path: Path) -> None:
    add(tmp_path, thing((0, 0, 10, 5)))
    dataset = read_voc(tmp_path)
    assert dataset.problems == ()
    assert dataset[0].truth.boxes.tolist() == [[0, 0, 10, 5]]


def test_an_image_without_objects(tmp_path: Path) -> None:
    add(tmp_path)
    dataset = read_voc(tmp_path)
    assert dataset.problems == ()
    assert dataset[0].truth.boxes.shape == (0, 4)


@pytest.mark.parametrize("filename", ["a.jpg", "/home/someone/a.jpg", "C:\\x\\a.jpg", "renamed.jpg", " "])
def test_the_image_is_found_by_name_or_by_stem(tmp_path: Path, filename: str) -> None:
    add(tmp_path, thing(), filename=filename)
    assert read_voc(tmp_path).records[0].path == tmp_path / "JPEGImages" / "a.jpg"


def test_spellings_are_merged_to_the_most_frequent(tmp_path: Path) -> None:
    boxes = [(1, 1, 9, 5), (2, 1, 9, 5), (3, 1, 9, 5), (4, 1, 9, 5)]
    names = ("RBC", "rbc", "RBC", "WBC")
    add(tmp_path, *(thing(box, name) for box, name in zip(boxes, names, strict=True)))
    dataset = read_voc(tmp_path)
    assert dataset.class_names == ("RBC", "WBC")
    assert dataset.records[0].truth.labels.tolist() == [0, 0, 0, 1]
    [problem] = dataset.problems
    assert problem.severity == "warning"
    assert "RBC (2), rbc (1)" in problem.what


@pytest.mark.parametrize(
    ("box", "name", "what", "severity"),
    [
        ((5, 5, 5, 5), "cat", "has no area", "warning"),
        ((5, 2, 5, 8), "cat", "has no area", "warning"),
        ((9, 2, 8, 8), "cat", "negative width", "error"),  # one pixel: inclusive corners would hide it
        ((5, 9, 9, 2), "cat", "negative width or height", "error"),
        (("nan", 2, 5, 8), "cat", "not a finite number", "error"),
        (("", 2, 5, 8), "cat", "Expected bndbox with four numbers; found xmin= ymin=2", "error"),
        (("one", 2, 5, 8), "cat", "found xmin=one", "error"),
        ((30, 2, 35, 8), "cat", "outside the image of 20 by 10", "error"),
        (GOOD, " ", "no name", "error"),
    ],
)
def test_faults_of_one_object(
    tmp_path: Path, box: tuple[object, ...], name: str, what: str, severity: str
) -> None:
    add(tmp_path, thing(), thing(box, name))
    dataset = read_voc(tmp_path)
    [problem] = dataset.problems
    assert what in problem.what
    assert problem.severity == severity
    assert problem.file == dataset.records[0].path
    assert problem.annotation == f"a.xml, object 2 ({name.strip()})"
    assert len(dataset[0].truth) == 1


def test_boxes_are_cut_at_the_border(tmp_path: Path) -> None:
    add(tmp_path, thing((15, 2, 25, 8)))
    dataset = read_voc(tmp_path)
    assert dataset[0].truth.boxes.tolist() == [[14, 1, 20, 8]]
    assert dataset.problems[0].severity == "warning"


def test_broken_xml_names_file_and_line(tmp_path: Path) -> None:
    add(tmp_path, thing())
    xml = add(tmp_path, thing(), stem="b")
    xml.write_text("<annotation>\n<object>\n</annotation>")
    dataset = read_voc(tmp_path)
    [problem] = dataset.problems
    assert problem.file == xml
    assert "line 3" in problem.what
    assert len(dataset) == 1


@pytest.mark.parametrize(
    ("width", "height", "what"),
    [
        (20, 10, None),
        (0, 0, None),
        (40, 20, "its annotation 40 by 20"),
        (10, 20, "10 by 20"),
        ("x", 10, "x by 10"),
    ],
)
def test_size_against_the_image(tmp_path: Path, width: object, height: int, what: str | None) -> None:
    add(tmp_path, thing(), size=f"<size><width>{width}</width><height>{height}</height></size>")
    problems = read_voc(tmp_path).problems
    if what is None:
        assert problems == ()
    else:
        assert what in problems[0].what
        assert ("EXIF" in problems[0].advice) == (width == 10)


def test_missing_and_broken_images(tmp_path: Path) -> None:
    add(tmp_path, thing())
    gone, broken = add(tmp_path, thing(), stem="b"), add(tmp_path, thing(), stem="c")
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    (tmp_path / "JPEGImages" / "c.jpg").write_text("no picture")
    dataset = read_voc(tmp_path)
    assert [p.file for p in dataset.problems] == [gone, tmp_path / "JPEGImages" / "c.jpg"]
    assert "neither b.jpg nor b with" in dataset.problems[0].what
    assert dataset.problems[1].annotation == broken.name
    assert len(dataset) == 1


def test_an_image_annotated_twice(tmp_path: Path) -> None:
    add(tmp_path, thing())
    (tmp_path / "Annotations" / "b.xml").write_text("<annotation><filename>a.jpg</filename></annotation>")
    dataset = read_voc(tmp_path)
    assert "annotated twice, in a.xml and b.xml" in dataset.problems[0].what
    assert len(dataset) == 1


def test_images_without_annotation_file(tmp_path: Path) -> None:
    add(tmp_path, thing())
    add(tmp_path, thing(), stem="b").unlink()
    [problem] = read_voc(tmp_path).problems
    assert problem.severity == "warning"
    assert "1 images have no annotation file: b.jpg" in problem.what


def test_splits(tmp_path: Path) -> None:
    for stem in "abc":
        add(tmp_path, thing(), stem=stem)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("c 1\na -1\n\nc\nz\n")
    dataset = read_voc(tmp_path, "train")
    assert [r.image_id for r in dataset.records] == ["c", "a"]
    assert ["listed 2 times" in p.what for p in dataset.problems] == [True, False]
    assert dataset.problems[1].file == tmp_path / "Annotations" / "z.xml"
    with pytest.raises(ValueError, match=r"val\.txt: no such split; available: train"):
        read_voc(tmp_path, "val")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected Annotations/\*\.xml with JPEGImages/"):
        read_voc(tmp_path)
    add(tmp_path).unlink()
    with pytest.raises(ValueError, match="found Annotations, JPEGImages"):
        read_voc(tmp_path)


@pytest.mark.parametrize(("annotations", "images"), [("annots", "images"), ("annotations", "."), (".", ".")])
def test_folders_of_other_names(tmp_path: Path, annotations: str, images: str) -> None:
    xml = add(tmp_path, thing())
    for old, new in (("Annotations", annotations), ("JPEGImages", images)):
        for file in (tmp_path / old).iterdir():
            (tmp_path / new).mkdir(exist_ok=True)
            file.rename(tmp_path / new / file.name)
        (tmp_path / old).rmdir()
    dataset = open_data(tmp_path)
    assert (dataset.format, dataset.problems, len(dataset)) == ("voc", (), 1)
    assert dataset.records[0].path == tmp_path / images / "a.jpg"
    # Beside images only an XML file that is called like one of them makes it Pascal VOC.
    (tmp_path / annotations / xml.name).rename(tmp_path / "notes.xml")
    with pytest.raises(ValueError, match="no annotations of a known format"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("part", "images", "counts"), [("Training", 300, [304, 3340, 307]), ("Testing", 60, [55, 791, 61])]
)
def test_real(part: str, images: int, counts: list[int]) -> None:
    dataset = read_voc(real_data(f"cbc/{part}"))
    assert len(dataset) == images
    assert dataset.class_names == ("Platelets", "RBC", "WBC")
    labels = [label for r in dataset.records for label in r.truth.labels.tolist()]
    assert [labels.count(i) for i in range(3)] == counts
    [problem] = dataset.problems  # one slip of the mouse in each part
    assert (problem.severity, "has no area" in problem.what) == ("warning", True)


def test_files_that_are_not_of_voc(tmp_path: Path) -> None:
    add(tmp_path, thing())
    add(tmp_path, stem="b").write_text("<Annotations><Annotation/></Annotations>")
    [problem] = read_voc(tmp_path).problems
    assert problem.what == "Expected Pascal VOC's <annotation>; found <annotations>."


def test_what_is_doubtful_is_reported(tmp_path: Path) -> None:
    add(tmp_path, thing(), thing())
    add(tmp_path, thing(), stem="b", filename="c.jpg")
    add(tmp_path, stem="c").unlink()
    dataset = read_voc(tmp_path)
    assert {p.severity for p in dataset.problems} == {"warning"}
    said = " ".join(p.what for p in dataset.problems)
    for what in (
        "occurs twice",
        "<filename> is c.jpg",
        "annotation file: c",
    ):
        assert what in said
    assert [r.path.name for r in dataset.records] == ["a.jpg", "b.jpg"]


def test_lists_as_windows_writes_them(tmp_path: Path) -> None:
    add(tmp_path, thing())
    add(tmp_path, thing(), stem="b")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\r\na.jpg\r\n", "utf-8-sig")
    dataset = read_voc(tmp_path, "train")
    assert ([r.image_id for r in dataset.records], dataset.problems) == (["b", "a"], ())


BOXES = [[0, 0, 10, 5], [4, 1, 20, 10]]
SECOND = (5, 2, 20, 10)


def moved(folder: Path, annotations: str, images: str) -> Path:
    """Two objects, in ``BOXES``, in folders of these names."""
    xml = add(folder, thing(), thing(SECOND))
    for file, new in ((xml, annotations), (folder / "JPEGImages" / "a.jpg", images)):
        (folder / new).mkdir(parents=True, exist_ok=True)
        file.rename(folder / new / file.name)
        if not list(file.parent.iterdir()):
            file.parent.rmdir()
    return folder


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotation", "images"),
        ("ann", "img"),
        ("labels", "images"),
        ("xml", "imgs"),
        ("annotations/first", "images"),
        ("annotations", "images/images"),
        ("annotations/one/two", "images/one/two"),
        ("Annotations", "photographs of mine"),
        ("train_annotations", "train_images"),
    ],
)
def test_any_usual_folders(tmp_path: Path, annotations: str, images: str) -> None:
    given = tmp_path / images if images.startswith("photo") else None
    data = open_data(moved(tmp_path, annotations, images), given)
    assert (data.format, data.problems) == ("voc", ())
    assert data[0].truth.boxes.tolist() == BOXES


def test_equal_names_in_folders_on_both_sides(tmp_path: Path) -> None:
    for part, box in (("one", GOOD), ("two", SECOND)):
        folder = tmp_path / part
        folder.mkdir()
        xml = add(folder, thing(box), filename=f"{part}/a.jpg")
        for file, side in ((xml, "Annotations"), (folder / "JPEGImages" / "a.jpg", "JPEGImages")):
            (tmp_path / side / part).mkdir(parents=True)
            file.rename(tmp_path / side / part / file.name)
    listing = tmp_path / "ImageSets" / "Main" / "default.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("one/a\ntwo/a\n")
    for source in (tmp_path, listing):
        data = open_data(source)
        assert data.problems == ()
        assert {r.image_id: r.truth.boxes.tolist() for r in data.records} == {
            "one/a": [BOXES[0]],
            "two/a": [BOXES[1]],
        }


@pytest.mark.parametrize("tags", ["Annotation Object Bndbox Name", "OBJECT BNDBOX"])
def test_tags_in_upper_case(tmp_path: Path, tags: str) -> None:
    xml = add(tmp_path, thing(), thing(SECOND))
    text = xml.read_text()
    for tag in tags.split():
        text = text.replace(f"<{tag.lower()}>", f"<{tag}>").replace(f"</{tag.lower()}>", f"</{tag}>")
    xml.write_text(text)
    data = open_data(tmp_path)
    assert (data.problems, data[0].truth.boxes.tolist()) == ((), BOXES)


def test_a_namespace_does_not_matter(tmp_path: Path) -> None:
    xml = add(tmp_path, thing(), thing(SECOND))
    xml.write_text(xml.read_text().replace("<annotation>", '<annotation xmlns="http://example.org/v">'))
    assert open_data(tmp_path)[0].truth.boxes.tolist() == BOXES


def test_several_boxes_of_one_object_are_several_objects(tmp_path: Path) -> None:
    first, second = thing(), thing(SECOND)
    both = first.replace("</object>", "") + second[second.index("<bndbox>") :]
    add(tmp_path, both)
    data = open_data(tmp_path)
    assert data[0].truth.boxes.tolist() == BOXES
    assert data[0].truth.names == ["cat", "cat"]


def test_the_box_of_a_part_is_not_that_of_its_object(tmp_path: Path) -> None:
    part = f"<part><name>ear</name>{box_xml((1, 1, 3, 3))}</part>"
    add(tmp_path, thing(SECOND).replace("<bndbox>", f"{part}<bndbox>", 1))
    data = open_data(tmp_path)
    assert (data.class_names, data[0].truth.boxes.tolist()) == (("cat",), [BOXES[1]])


@pytest.mark.parametrize("encoding", ["gb2312", "windows-1251", "utf-16", "iso-8859-1"])
def test_declared_encodings(tmp_path: Path, encoding: str) -> None:
    name = {"gb2312": "细胞", "windows-1251": "клетка"}.get(encoding, "Zelle ü")
    xml = add(tmp_path, thing(name=name))
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n{xml.read_text("utf-8")}'
    xml.write_bytes(text.encode(encoding))
    data = open_data(tmp_path)
    assert (data.problems, data.class_names) == ((), (name,))


def test_an_undeclared_encoding_is_named(tmp_path: Path) -> None:
    xml = add(tmp_path, thing(name="细胞"))
    xml.write_bytes(xml.read_text("utf-8").encode("gbk"))
    [problem] = read_voc(tmp_path).problems
    assert "declares no encoding" in problem.what
    assert "save it as UTF-8" in problem.what


def test_rotated_boxes_of_cvat_and_rolabelimg(tmp_path: Path) -> None:
    # 4 1 20 10 has its centre at 12, 5.5; a box of 6 by 2 around it, turned by a quarter, is 2 by 6.
    turned = "<attributes><attribute><name>rotation</name><value>90</value></attribute></attributes>"
    cvat = thing((10, 6, 15, 6.5)).replace("</object>", f"{turned}</object>")
    box = "<cx>12</cx><cy>5.5</cy><w>6</w><h>2</h><angle>1.5707963</angle>"
    add(tmp_path, cvat, f"<object><name>cat</name><robndbox>{box}</robndbox></object>")
    data = open_data(tmp_path)
    boxes = data[0].truth.boxes.round(3).tolist()
    assert boxes == [[11.25, 2.75, 12.75, 8.75], [11, 2.5, 13, 8.5]]
    assert data.has_masks
    [problem] = data.problems
    assert (problem.severity, "2 boxes are rotated" in problem.what) == ("warning", True)


def test_polygons_are_outlines_if_they_are_at_their_boxes(tmp_path: Path) -> None:
    corners = {"x1": 0, "y1": 0, "x2": 10, "y2": 0, "x3": 10, "y3": 5, "x4": 0, "y4": 5}
    polygon = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners.items())
    drawn = thing().replace("</object>", f"<polygon>{polygon}</polygon></object>")
    xml = add(tmp_path, drawn)
    data = open_data(tmp_path)
    assert (data.problems, data[0].truth.masks.areas().tolist()) == ((), [50])
    xml.write_text(xml.read_text().replace(thing()[thing().index("<bndbox>") : -9], box_xml((12, 6, 20, 10))))
    data = open_data(tmp_path)
    assert data[0].truth.boxes.tolist() == [[11, 5, 20, 10]]
    assert ["1 polygons are not at their boxes" in p.what for p in data.problems] == [True]


def box_xml(box: tuple[int, ...]) -> str:
    return thing(box)[thing(box).index("<bndbox>") : -9]


def test_difficult_everywhere_is_explained(tmp_path: Path) -> None:
    add(tmp_path, thing(difficult=1), thing(SECOND, difficult=1))
    [problem] = open_data(tmp_path).problems
    assert "All 2 objects are marked as difficult" in problem.what


def test_the_polygons_of_labelmes_old_xml_are_objects(tmp_path: Path) -> None:
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((2, 1), (6, 1), (6, 4), (2, 4)))
    drawn = f"<object><name>cat</name><deleted>0</deleted><polygon>{points}</polygon></object>"
    gone = drawn.replace("<deleted>0", "<deleted>1")
    Image.new("L", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(f"<annotation><filename>a.png</filename>{drawn}{gone}</annotation>")
    truth = open_data(tmp_path).records[0].load_truth()
    assert truth.boxes.tolist() == [[2, 1, 6, 4]]
    assert truth.masks is not None
    assert truth.masks.areas().tolist() == [12]


def test_extensions_may_be_in_upper_case(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    Image.new("L", (8, 6)).save(tmp_path / "JPEGImages" / "a.png")
    box = "<bndbox><xmin>3</xmin><ymin>2</ymin><xmax>6</xmax><ymax>4</ymax></bndbox>"
    xml = f"<annotation><object><name>cat</name>{box}</object></annotation>"
    (tmp_path / "Annotations" / "a.XML").write_text(xml)
    assert open_data(tmp_path).records[0].truth.boxes.tolist() == [[2, 1, 6, 4]]


def test_files_without_extension_in_nested_folders(tmp_path: Path) -> None:
    """As Stanford Dogs has them."""
    for breed in ("n1-Chihuahua", "n2-Beagle"):
        image(tmp_path / "Images" / breed, f"{breed}_1.jpg")
        box = "<bndbox><xmin>9</xmin><ymin>7</ymin><xmax>24</xmax><ymax>20</ymax></bndbox>"
        found = f"<filename>%s</filename><object><name>{breed[3:]}</name>{box}</object>"
        put(tmp_path / "Annotation" / breed, f"{breed}_1", f"<annotation>\n{found}</annotation>")
        put(tmp_path / "Annotation" / breed, "README", "the breeds")
    data = open_data(tmp_path)
    assert boxes(data) == {
        "n1-Chihuahua_1.jpg": [("Chihuahua", (8, 6, 24, 20))],
        "n2-Beagle_1.jpg": [("Beagle", (8, 6, 24, 20))],
    }


def test_lists_are_splits_of_a_folder(tmp_path: Path) -> None:
    box = "<bndbox><xmin>9</xmin><ymin>7</ymin><xmax>24</xmax><ymax>20</ymax></bndbox>"
    for name in "abc":
        image(tmp_path / "JPEGImages", f"{name}.jpg")
        put(
            tmp_path / "Annotations",
            f"{name}.xml",
            f"<annotation><object><name>x</name>{box}</object></annotation>",
        )
    lists = {
        "train": "a\nb\n",
        "val": "c\n",
        "trainval": "a\nb\nc\n",
        "x_train": "a 1\n",
        "test": "elsewhere\n",
    }
    for name, lines in lists.items():
        put(tmp_path / "ImageSets" / "Main", f"{name}.txt", lines)
    found = {name: [r.path.stem for r in data.records] for name, data in open_splits(tmp_path).items()}
    assert found == {"train": ["a", "b"], "val": ["c"]}
    (tmp_path / "ImageSets" / "Main" / "val.txt").unlink()
    assert [len(data) for data in open_splits(tmp_path).values()] == [3]
