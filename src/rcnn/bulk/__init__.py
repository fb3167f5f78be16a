"""Prediction of any number of images into shards of Parquet, on this machine or on a cluster.

A list of images becomes a manifest, cut into shards of equal length. A shard is the unit of everything: a
worker predicts its images and writes its file in one step, whichever worker does it and however often.

**Law:** whatever is killed, and whenever, the same command into the same place does what is missing, and in
the end every image has exactly one row, which is the row it has when it is predicted alone.
"""

from rcnn.bulk.job import BulkOptions, JobError
from rcnn.bulk.prediction import BulkSummary, predict_bulk
from rcnn.bulk.results import Prediction, read_predictions
from rcnn.bulk.status import JobStatus, job_status

__all__ = [
    "BulkOptions",
    "BulkSummary",
    "JobError",
    "JobStatus",
    "Prediction",
    "job_status",
    "predict_bulk",
    "read_predictions",
]
