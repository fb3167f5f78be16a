"""Data sets: every format is read into the same :class:`~rcnn.data.dataset.Dataset`."""
