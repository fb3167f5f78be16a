"""Open a large COCO file: seconds, and the most memory, the first time and again.

    python -m benchmarks.large_set [--images 100000] [--objects 8] [--folder FOLDER]

writes a synthetic file of polygons (8 to 32 corners each, 380 MB for 100,000 images with 8 objects) and empty
image files, opens it in a new process, which checks it too, then again with the arrays that were kept, and in
two worker processes at once. Sizes are given in the file, so that no image is opened.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

OPEN = """
import resource, sys, time
began = time.perf_counter()
from rcnn.data.formats.open import open_data
from rcnn.data.check import check
imported = time.perf_counter()
data = open_data(sys.argv[1])
opened = time.perf_counter()
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
report = check(data, decode=False)
checked = time.perf_counter()
total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{len(data)} images, {len(data.objects.labels)} objects, {len(report.problems)} problems: import "
      f"{imported - began:.1f} s, open {opened - imported:.1f} s with {memory:.0f} MB, check "
      f"{checked - opened:.1f} s with {total:.0f} MB")
"""
SHARE = """
import os, pickle, sys
from rcnn.data.formats.open import open_data
data = open_data(sys.argv[1])
def private() -> int:
    # Clean pages are of files: where the other worker has ended, they count as private.
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
def work(number: int) -> None:
    before = private()
    for index in range(number, len(data), 2):
        data.records[index].load_truth()
    print(f"worker {number}: {(private() - before) / 1024:.0f} MB of its own after all its masks")
os.sync()  # or pages of the arrays that were just written count as dirty
children = []
for number in range(2):
    child = os.fork()
    if not child:
        work(number)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


def write(folder: Path, images: int, objects: int) -> Path:
    """A COCO file in the order of the published ones, and its image files, which are empty."""
    rng = random.Random(0)
    place = folder / "train"
    place.mkdir(parents=True, exist_ok=True)
    path = folder / "instances_train.json"
    with path.open("w") as file:
        file.write('{"info": {}, "images": [')
        for n in range(images):
            (place / f"{n:012d}.jpg").touch()
            image = {"id": n, "file_name": f"{n:012d}.jpg", "height": 480, "width": 640, "license": 1}
            file.write((", " if n else "") + json.dumps(image))
        file.write('], "annotations": [')
        for n in range(images * objects):
            x, y, w, h = (round(rng.uniform(*r), 2) for r in ((0, 500), (0, 380), (10, 120), (10, 90)))
            count = rng.randint(6, 30)
            corners = [(x, y), (x + w, y + h)]
            corners += [(x + rng.random() * w, y + rng.random() * h) for _ in range(count)]
            entry = {
                "segmentation": [[round(v, 2) for corner in corners for v in corner]],
                "area": round(w * h / 2, 3), "iscrowd": 0, "image_id": n // objects, "bbox": [x, y, w, h],
                "category_id": rng.randint(1, 80), "id": n + 1,
            }  # fmt: skip
            file.write((", " if n else "") + json.dumps(entry))
        categories = [{"id": c, "name": f"class {c}", "supercategory": "thing"} for c in range(1, 81)]
        file.write('], "categories": ' + json.dumps(categories) + "}")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--objects", type=int, default=8, help="per image")
    parser.add_argument("--folder", type=Path, help="where to write; kept, and used again if it is there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        path = folder / "instances_train.json"
        if not path.is_file():
            path = write(folder, args.images, args.objects)
        print(f"{path.stat().st_size / 1e6:.0f} MB")
        environment = {**os.environ, "RCNN_CACHE": str(Path(temporary) / "cache")}
        for title, program in (("first", OPEN), ("again", OPEN), ("workers", SHARE)):
            print(f"{title}:", flush=True)
            subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=True)


if __name__ == "__main__":
    main()
