"""Draws docs/overlay.png, the README's picture: `rcnn demo && python docs/pictures.py demo`."""

import sys
from pathlib import Path

from rcnn import load
from rcnn.data.shapes import draw_shapes
from rcnn.draw import contact_sheet
from rcnn.io.atomic import write_image

detector = load(sys.argv[1])
held_out = [draw_shapes(1, first=400 + i, size=(160, 160))[0] for i in range(4)]
found = detector.predict([sample.image for sample in held_out])
pictures = [objects.overlay(sample.image) for sample, objects in zip(held_out, found, strict=True)]
captions = [f"{len(objects)} objects" for objects in found]
write_image(contact_sheet(pictures, captions, columns=4, tile=240), Path(__file__).parent / "overlay.png")
