"""One of each thing that rcnn can be extended by; ``tests/test_extension.py`` uses them all."""
