"""The 4-step training of Faster R-CNN (Ren et al. 2015, arXiv 1506.01497, §3.2).

1. An RPN, from the pretrained backbone.
2. Fast R-CNN on the proposals of step 1, from the pretrained backbone: two networks that share nothing.
3. An RPN on the convolutions of step 2, which are frozen.
4. The head of step 2, trained on the proposals of step 3, on the same convolutions: one network.

These convolutions are the backbone and the pyramid, if any (FPN §5.2.3). With ``model.shared = false`` the
sequence ends after step 2, with two networks in one model (table 2, "unshared").

Each step has a folder ``step-N`` in the run folder and ends with ``step-N.safetensors``: a checkpoint of
Faster R-CNN after steps 1 (its head untrained) and 3, of Fast R-CNN after steps 2 and 4. ``step-N.npz`` are
an RPN's proposals for the training images. A run that was killed skips the steps whose checkpoint exists and
resumes the unfinished one.

Differs from the paper: the next step gets the weights that were best on validation images, not the last ones.
All steps are equally long; in the published code all process as many images (80,000 iterations of one image
for an RPN, 40,000 of two for Fast R-CNN).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import Boxes, ImageId, read_proposals, with_proposals, write_proposals
from rcnn.device import MEMORY_FORMAT
from rcnn.evaluation.rpn_proposals import rpn_proposals
from rcnn.inference.detector import Detector
from rcnn.io import checkpoint
from rcnn.io.atomic import write_atomically
from rcnn.metrics.recall import proposal_recall
from rcnn.models import build_model, model_name
from rcnn.models.fast_rcnn import FastRCNN, FastRCNNSettings
from rcnn.models.faster_rcnn import FasterRCNNSettings
from rcnn.models.model import Model
from rcnn.ops.losses import global_means
from rcnn.parts.backbone import build_backbone
from rcnn.parts.batch import ImageBatch, Output, Targets
from rcnn.parts.fpn import FPN, build_neck
from rcnn.parts.pretrained import load_backbone_weights, load_pretrained
from rcnn.parts.rpn import RPN
from rcnn.processes.group import barrier, from_first_process, rank
from rcnn.training.callbacks import Callbacks, TrainEvent
from rcnn.training.recipe import Recipe
from rcnn.training.run_folder import BEST, HISTORY, LAST
from rcnn.training.trainer import Trainer, TrainState

State = dict[str, Tensor]
Measure = Callable[[bool], Mapping[str, float]]

STEP_NAMES = (
    "an RPN from the pretrained backbone",
    "Fast R-CNN on its proposals, from the pretrained backbone",
    "an RPN on the convolutions of step 2, which are frozen",
    "the head of Fast R-CNN on the same convolutions",
)


class ProposalNetwork(nn.Module):
    """Faster R-CNN without its second stage, under the same names: what steps 1 and 3 train."""

    def __init__(self, settings: FasterRCNNSettings) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = build_backbone(settings.backbone)
        self.neck = build_neck(self.backbone.channels, self.backbone.strides, settings.fpn)
        self.rpn = RPN(self.neck.channels, self.neck.strides, settings.rpn)
        self.to(memory_format=MEMORY_FORMAT)

    def forward(self, batch: ImageBatch, targets: list[Targets]) -> Output:
        """The two losses of the RPN (eq. 1)."""
        anchors = self.rpn(self.neck(self.backbone(batch.tensors)))
        return Output(global_means(self.rpn.loss(anchors, targets, batch.sampling_seeds())))


@dataclass(frozen=True)
class AlternatingTrainer:
    """The sequence of steps in one run folder.

    Attributes:
        folder: of the run, existing.
        recipe: of the run; ``epochs`` or ``minutes`` are divided among the steps.
        data: the training images.
        val: the validation images, of which ``eval_images`` are evaluated.
        device: where to train.
        measure: given a Fast R-CNN, its recipe and validation images with proposals, returns the function
            that :class:`rcnn.training.trainer.Trainer` evaluates it with.
        callbacks: get the events of the whole sequence.
        say: takes a line for the log.
    """

    folder: Path
    recipe: Recipe
    data: Dataset
    val: Dataset
    device: torch.device
    measure: Callable[[Any, Recipe, Dataset], Measure]
    callbacks: Callbacks = field(default_factory=Callbacks)
    say: Callable[[str], None] = print

    @property
    def settings(self) -> FasterRCNNSettings:
        """Those of the final model."""
        settings: FasterRCNNSettings = self.recipe.settings
        return settings

    @property
    def count(self) -> int:
        """The number of steps."""
        return 4 if self.settings.shared else 2

    def run(self) -> TrainState:
        """Train the missing steps; ``best.safetensors`` and ``last.safetensors`` are the final model."""
        self._start()
        for step in range(1, self.count + 1):
            if not from_first_process(self.file(step).is_file):
                self._train(step)
            if rank() == 0:
                for name in (LAST, BEST):
                    (self.folder / f"step-{step}" / name).unlink(missing_ok=True)
                self._join_metrics(step)
        return self._finish()

    def file(self, step: int, ending: str = "safetensors") -> Path:
        """What a step writes: its checkpoint, or as ``npz`` the proposals for the training images."""
        return self.folder / f"step-{step}.{ending}"

    def _start(self) -> None:
        """Call ``on_start`` with the progress of the sequence."""
        done, state = from_first_process(self._done)
        epoch = state.iteration * self.recipe.train.batch_size / len(self.data)
        event = TrainEvent(self.folder, self.recipe, state.iteration, epoch, done / self.count, state.seconds)
        self.callbacks.call("on_start", event)
        self.callbacks.raise_failure()

    def _done(self) -> tuple[int, TrainState]:
        """How many steps are done, and the state after them."""
        done = 0
        while done < self.count and self.file(done + 1).is_file():
            done += 1
        return done, self._train_state(done)

    def _step_callbacks(self, step: int) -> Callbacks:
        """The callbacks, which get the events of a step as those of the whole sequence."""
        before = from_first_process(lambda: self._train_state(step - 1))
        epochs = before.iteration * self.recipe.train.batch_size / len(self.data)

        def adapt(event: TrainEvent) -> TrainEvent:
            return TrainEvent(
                self.folder,
                self.recipe,
                before.iteration + event.iteration,
                epochs + event.epoch,
                (step - 1 + event.fraction) / self.count,
                before.seconds + event.seconds,
                event.values,
            )

        return Callbacks(self.callbacks.callbacks, adapt)

    def _train(self, step: int) -> None:
        folder = self.folder / f"step-{step}"
        if rank() == 0:
            folder.mkdir(exist_ok=True)
        recipe, network, data = self._recipe(step), self._network(step), self._data(step)
        trainer = Trainer(
            network, recipe, data, folder, evaluate=self._measure(step, network, recipe), describe={},
            callbacks=self._step_callbacks(step), say=self.say,
        )  # fmt: skip
        self.say(f"step {step} of {self.count}: {STEP_NAMES[step - 1]}")
        if from_first_process((folder / LAST).is_file):
            trainer.resume()
            self.say(f"resumed at iteration {trainer.state.iteration} of step {step}")
        trainer.run()
        if rank() == 0:
            best, _ = checkpoint.read_checkpoint(folder / BEST)
            self._save_step(step, {k.removeprefix("network."): v for k, v in best.items()}, trainer.state)
        barrier()

    def _recipe(self, step: int) -> Recipe:
        """The recipe of a step: a part of the schedule, and for Fast R-CNN its settings."""
        length = self.recipe.train
        shared = replace(
            length,
            epochs=None if length.epochs is None else length.epochs / self.count,
            minutes=None if length.minutes is None else length.minutes / self.count,
        )
        if step in (1, 3):
            return replace(self.recipe, train=shared)
        s = self.settings
        fast = FastRCNNSettings(backbone=s.backbone, fpn=s.fpn, box=s.box)
        return replace(self.recipe, model=model_name(FastRCNN), settings=fast, train=shared)

    def _network(self, step: int) -> Any:
        """The network that a step starts from."""
        torch.manual_seed(self.recipe.train.seed)
        network: Any
        if step in (1, 3):
            network = ProposalNetwork(self.settings)
        else:
            network = FastRCNN(len(self.data.class_names), self._recipe(step).settings)
        if step == 1:
            load_backbone_weights(network.backbone, network.settings.backbone)
        elif step == 2:
            load_pretrained(network)
        else:
            _copy_weights(
                network,
                from_first_process(lambda: self._state(2)),
                ("backbone.", "neck.", "box.") if step == 4 else ("backbone.", "neck."),
            )
            freeze(network)
        return network.to(self.device)

    def _data(self, step: int) -> Dataset:
        """The training images, for Fast R-CNN with the proposals of the step before."""
        if step in (1, 3):
            return self.data
        return with_proposals(
            self.data, from_first_process(lambda: read_proposals(self.file(step - 1, "npz")))
        )

    def _measure(self, step: int, network: Any, recipe: Recipe) -> Measure:
        """How a step is evaluated: an RPN by the recall of its proposals, Fast R-CNN like any detector."""
        few = self.val.subset(self.val.evenly_spaced(recipe.train.eval_images))
        if step in (1, 3):
            return lambda full: self._recall(network, few)
        boxes = self._proposals(self._proposal_model(step - 1), few, self.settings.rpn.post_nms[1])
        measure = self.measure(network, recipe, with_proposals(few, boxes))
        return lambda full: measure(False)

    def _recall(self, network: Any, few: Dataset) -> dict[str, float]:
        if rank() > 0:
            return {"score": 0.0}
        count = self.settings.rpn.post_nms[1]
        proposed = with_proposals(few, self._proposals(network, few, count))
        recall = proposal_recall([record.truth for record in proposed.records], (count,))
        found = {"recall50": recall.at_50[0], "recall70": recall.at_70[0], "AR": recall.average[0]}
        score = found["AR"] if found["AR"] == found["AR"] else 0.0  # NaN: no truth at all
        return {**{f"proposals/{name}": value for name, value in found.items()}, "score": score}

    def _proposals(
        self, network: Any, data: Dataset, count: int, min_candidates: int = 0
    ) -> dict[ImageId, Boxes]:
        return rpn_proposals(
            self._detector(network.to(self.device)), data, count, min_candidates=min_candidates
        )

    def _detector(self, network: Any) -> Detector:
        ids = self.data.category_ids
        info = {"category_ids": list(ids)} if ids else {}
        return Detector(network, self.recipe.transform, self.data.class_names, info=info)

    def _save_step(self, step: int, state: State, progress: TrainState) -> None:
        """Write the checkpoint of a step, as the last of its files: from then on the step is done."""
        network: Any
        torch.manual_seed(self.recipe.train.seed)  # of the head that step 1 does not train
        if step in (1, 3):
            network = self._faster_rcnn(shared=True)
            _copy_weights(network, state, ("backbone.", "neck.", "rpn."))
            if step == 3:
                _copy_weights(network, self._state(2), ("box.",))
            began = time.perf_counter()
            # From as many anchors as in training, which are more than prediction uses.
            pre, post = self.settings.rpn.pre_nms[0], self.settings.rpn.post_nms[0]
            boxes = self._proposals(network, self.data, post, pre)
            write_proposals(self.file(step, "npz"), boxes)
            seconds = time.perf_counter() - began
            progress.seconds += seconds  # they are a part of the training
            self.say(f"step {step}: generated proposals for {len(self.data)} images in {seconds:.0f} s")
        else:
            network = FastRCNN(len(self.data.class_names), self._recipe(step).settings)
            network.load_state_dict(state)
        facts = {**self._detector(network).describe(), "step": step, "train_state": vars(progress)}
        checkpoint.write_checkpoint(self.file(step), network.state_dict(), facts)

    def _state(self, step: int) -> State:
        return checkpoint.read_checkpoint(self.file(step))[0]

    def _faster_rcnn(self, *, shared: bool) -> Model:
        """The model of the recipe, with random weights."""
        settings = replace(self.settings, shared=shared)
        return build_model(self.recipe.model, settings, self.data.class_names)

    def _proposal_model(self, step: int) -> Model:
        """The Faster R-CNN that step 1 or 3 wrote."""
        network = self._faster_rcnn(shared=True)
        network.load_state_dict(from_first_process(lambda: self._state(step)))
        return network

    def _finish(self) -> TrainState:
        """Merge the last two steps into one model; returns the state of the whole sequence."""
        network = self._faster_rcnn(shared=self.settings.shared)
        head, proposer, progress = from_first_process(
            lambda: (
                self._state(self.count),
                self._state(self.count - 1),
                self._train_state(self.count),
            )
        )
        _copy_weights(network, head, ("backbone.", "neck.", "box."))
        _copy_weights(network, proposer, ("rpn.",))
        if not self.settings.shared:
            own = {f"rpn_{k}": v for k, v in proposer.items() if k.startswith(("backbone.", "neck."))}
            _copy_weights(network, own, ("rpn_backbone.", "rpn_neck."))
        last = self.folder / LAST
        # If the run was finished before, the best checkpoint already has its metrics and threshold.
        done = last.is_file() and checkpoint.read_metadata(last).get("train_state") == vars(progress)
        if rank() == 0 and not done:
            detector = self._detector(network)
            detector.save(self.folder / BEST)
            facts = {**detector.describe(), "train_state": vars(progress)}
            checkpoint.write_checkpoint(last, network.state_dict(), facts)
        return progress

    def _train_state(self, count: int) -> TrainState:
        """The states of the first ``count`` steps as one."""
        done = [
            TrainState(**checkpoint.read_metadata(self.file(step))["train_state"])
            for step in range(1, count + 1)
        ]
        if not done:
            return TrainState()
        before = sum(state.iteration for state in done[:-1])
        return replace(
            done[-1],
            iteration=before + done[-1].iteration,
            best_iteration=before + done[-1].best_iteration,
            seconds=sum(state.seconds for state in done),
            eval_seconds=sum(state.eval_seconds for state in done),
            skipped=sum(state.skipped for state in done),
        )

    def _join_metrics(self, done: int) -> None:
        """Write the rows of the first ``done`` steps as the history of one run."""
        rows = []
        for step in range(1, done + 1):
            before = self._train_state(step - 1)
            epochs = before.iteration * self.recipe.train.batch_size / len(self.data)
            path = self.folder / f"step-{step}" / HISTORY
            for line in path.read_text(encoding="utf-8").splitlines():
                row: dict[str, Any] = json.loads(line)
                row["iteration"] += before.iteration
                row["epoch"] += epochs
                row["seconds"] = round(row["seconds"] + before.seconds, 2)
                rows.append(json.dumps({**row, "step": step}))
        text = "".join(row + "\n" for row in rows)
        write_atomically(self.folder / HISTORY, text.encode())


def freeze(network: ProposalNetwork | FastRCNN) -> None:
    """Freeze backbone and pyramid, including the statistics of their batch norm."""
    network.backbone.freeze()
    if isinstance(network.neck, FPN):
        network.neck.frozen = True
    for part in (network.backbone, network.neck):
        part.requires_grad_(False)
    network.train()


def _copy_weights(network: nn.Module, state: Mapping[str, Tensor], parts: tuple[str, ...]) -> None:
    """Copy the tensors of some parts, given by the prefix of their names, into a network."""
    own = {key for key in network.state_dict() if key.startswith(parts)}
    network.load_state_dict({key: state[key] for key in own}, strict=False)
