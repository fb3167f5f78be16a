"""FCN: the published geometry, staging, weights of the classifier, one batch equals one by one, learning."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from found import by_image, in_pixels
from rcnn.data.shapes import draw_shapes
from rcnn.metrics.semantic import SemanticTally
from rcnn.models import fcn
from rcnn.models.fcn import FCN, FCNSettings
from rcnn.ops.semantic import bilinear_kernel
from rcnn.parts import pretrained as weights
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import Targets
from rcnn.parts.class_rows import take_over
from rcnn.parts.pretrained import load_backbone_weights, load_pretrained
from rcnn.transform import Transform

LIGHT = FCNSettings(
    BackboneSettings("efficientnet_lite0", (2, 3, 4), frozen_stages=1), pool=False, kernel=3, channels=16,
    dropout=0.0, alignment="centred",
)  # fmt: skip
LEVELS = {"32s": (4,), "16s": (3, 4), "8s": (2, 3, 4)}


def paper(name, channels=8):
    """The published net with narrow fc6 and fc7."""
    return FCNSettings(
        BackboneSettings("vgg16", LEVELS[name], frozen_stages=0), channels=channels, dropout=0.0
    )


def spread(model):
    """Score layers that are not zero, so that there is something to see."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for score in model.scores:
            score.weight.normal_(std=0.05, generator=draw)
    return model.eval()


def images(*sizes):
    draw = torch.Generator().manual_seed(0)
    return [torch.rand((3, *size), generator=draw) for size in sizes]


def truth_on(size, value=None):
    draw = torch.Generator().manual_seed(1)
    semantic = torch.randint(0, 4, size, generator=draw) if value is None else torch.full(size, value)
    return Targets.empty(size, semantic=semantic)


BUILD = {"8s": lambda: FCN(4, paper("8s")), "light": lambda: FCN(4, LIGHT)}


@pytest.fixture(scope="module", params=BUILD)
def model(request):
    torch.manual_seed(0)
    return spread(BUILD[request.param]())


def test_maps_that_do_not_cover_the_image():
    """AlexNet has no padding: what it does not see at the right and the bottom is as at its last cells."""
    net = FCN(4, replace(LIGHT, backbone=BackboneSettings("alexnet", (0, 1, 2), frozen_stages=0)))
    spread(net)
    with torch.no_grad():
        logits = net.logits(torch.rand((1, 3, 64, 96)))
    assert logits.shape == (1, 4, 64, 96)
    assert_close(logits[..., -1], logits[..., -2])


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 1)], ids=str)
def test_logits_of_every_pixel(model, size):
    batch = Transform()(images(size, (20, 30)))
    with torch.no_grad():
        output = model(batch)
    assert output.losses == {}
    for found, own in zip(by_image(output.detections, batch.sizes), batch.sizes, strict=True):
        assert (len(found), found.scores.shape) == (0, (0,))
        assert (found.semantic_logits.shape, found.semantic_logits.dtype) == ((4, *own), torch.float32)
        assert found.semantic_logits.isfinite().all()


@pytest.mark.parametrize(
    "sizes",
    [((64, 96), (50, 70), (40, 90)), ((128, 96), (50, 70), (64, 96), (20, 20))],
    ids=["alike", "differ"],
)
def test_one_batch_equals_one_by_one(model, sizes):
    pictures = images(*sizes)
    with torch.no_grad():
        together = by_image(model(Transform()(pictures)).detections, sizes)
        for picture, size, found in zip(pictures, sizes, together, strict=True):
            (alone,) = by_image(model(Transform()([picture])).detections, (size,))
            assert_close(alone.semantic_logits, found.semantic_logits, rtol=1e-4, atol=1e-5)


TRUTHS = {
    "maps": [truth_on((64, 96)), truth_on((64, 96))],
    "one void": [truth_on((64, 96)), truth_on((64, 96), 255)],
    "all void": [truth_on((64, 96), 255)] * 2,
}


@pytest.mark.parametrize("truths", TRUTHS.values(), ids=TRUTHS)
def test_the_loss_is_finite_and_reaches_every_parameter(model, truths):
    model.train()
    model.zero_grad(set_to_none=True)
    losses = model(Transform()(images((64, 96), (64, 96))), truths).losses
    assert list(losses) == ["pixels"]
    assert losses["pixels"].isfinite()
    losses["pixels"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    model.eval()


def test_at_the_start_all_classes_are_alike():
    """Score layers of zeros: the loss is log C, as the paper begins."""
    model = FCN(4, LIGHT)
    loss = model(Transform()(images((64, 64))), [truth_on((64, 64))]).losses["pixels"]
    assert_close(loss, torch.tensor(4.0).log())


def published(model, image, crops):
    """The logits as the published code makes them, with transposed convolutions all the way."""
    framed = functional.pad(image, (99, 125, 99, 125))
    maps = [functional.max_pool2d(m, 2) for m in model.backbone(framed)]
    scores = model.scores[0](model.layers(maps[-1]))
    for score, skip, crop in zip(model.scores[1:], reversed(maps[:-1]), crops[:-1], strict=True):
        scores = functional.conv_transpose2d(scores, bilinear_kernel(4, 2), stride=2)
        height, width = scores.shape[2:]
        scores = scores + score(skip)[:, :, crop : crop + height, crop : crop + width]
    stride = model.strides[0]
    scores = functional.conv_transpose2d(scores, bilinear_kernel(4, stride), stride=stride)
    height, width = image.shape[2:]
    return scores[:, :, crops[-1] : crops[-1] + height, crops[-1] : crops[-1] + width]


@pytest.mark.parametrize(("name", "crops"), [("32s", (19,)), ("16s", (5, 27)), ("8s", (5, 9, 31))])
def test_the_published_crops(name, crops):
    """The offsets of the authors' net definitions, with their last transposed convolution."""
    torch.manual_seed(0)
    model = spread(FCN(4, paper(name)))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = model.logits(image), published(model, image, crops)
    faded = 32 - 19 if name == "32s" else 0  # where theirs lacks the neighbour to interpolate with
    assert_close(ours[:, :, faded:, faded:], theirs[:, :, faded:, faded:], rtol=1e-4, atol=1e-5)
    assert (ours.argmax(1) == theirs.argmax(1)).float().mean() > 0.999


def test_flipping_the_image_flips_the_classes():
    """With symmetric kernels; so every map lies centred on the image."""
    torch.manual_seed(0)
    settings = replace(paper("8s"), alignment="centred", kernel=3)
    model = spread(FCN(4, settings))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
        image = torch.randn(1, 3, 64, 64)
        plain, flipped = model.logits(image), model.logits(image.flip(-1))
    assert_close(flipped.flip(-1), plain, rtol=1e-3, atol=1e-5)
    assert (plain - flipped).abs().max() > 1e-3


def test_a_finer_net_begins_as_the_coarser_one():
    """32s to 16s to 8s: the new score layer is zero, the others are taken over."""
    torch.manual_seed(0)
    image, last, coarser = torch.randn(1, 3, 160, 160), None, None
    for levels in LEVELS.values():
        model = FCN(4, replace(LIGHT, backbone=replace(LIGHT.backbone, levels=levels)))
        if last is None:
            spread(model)
        else:
            fresh = take_over(model, {}, coarser.state_dict(), {}).new
            step = len(model.scores) - 1
            assert fresh == [f"scores.{step}.weight", f"scores.{step}.bias", f"upsample.{step - 1}.weight"]
        model.eval()
        with torch.no_grad():
            logits = model.logits(image)
        inner = logits[:, :, 32:-32, 32:-32]
        if last is not None:  # enlarged by 2 and by 16 is nearly, not just, by 32
            assert (inner - last).abs().mean() < 0.1 * last.abs().mean()
        last, coarser = inner, model


def test_fc6_and_fc7_are_those_of_the_classifier(monkeypatch):
    """A convolution of 7 x 7 over one window is the linear layer that it was."""
    draw = torch.Generator().manual_seed(0)
    state = {f"classifier.{n}.bias": torch.randn(4096, generator=draw) for n in (0, 3)}
    for n, inputs in ((0, 25088), (3, 4096)):
        rows, columns = torch.randn((4096, 1), generator=draw), torch.randn((1, inputs), generator=draw)
        state[f"classifier.{n}.weight"] = 0.01 * rows * columns
    monkeypatch.setattr(fcn, "load_backbone_weights", lambda *_: True)
    monkeypatch.setattr(weights, "local_weights", lambda _: None)
    monkeypatch.setattr(weights, "_imagenet", lambda _: state)
    model = FCN(2, replace(paper("32s"), channels=4096))
    assert load_pretrained(model) == ["backbone", "layers"]
    pooled = torch.randn((1, 512, 7, 7), generator=draw)
    first = functional.linear(pooled.flatten(1), state["classifier.0.weight"], state["classifier.0.bias"])
    second = functional.linear(first.relu(), state["classifier.3.weight"], state["classifier.3.bias"])
    with torch.no_grad():
        assert_close(model.eval().layers(pooled)[:, :, 0, 0], second.relu(), rtol=1e-3, atol=1e-3)
    assert load_pretrained(FCN(2, paper("32s"))) == ["backbone"]


def test_fixed_upsampling_does_not_learn():
    model = FCN(4, replace(LIGHT, learn_upsampling=False))
    assert not any(weight.requires_grad for weight in model.upsample.parameters())
    assert_close(model.upsample[0].weight.detach(), bilinear_kernel(4, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (replace(LIGHT, kernel=4), "an odd kernel"),
        (replace(LIGHT, alignment="published"), 'kernel of 7, found 32 and 3: choose "centred'),
        (replace(LIGHT, backbone=replace(LIGHT.backbone, levels=(1, 4))), r"have the strides \[4, 32\]"),
        (replace(paper("32s"), pool=False), "needs a last stride of 32 and a kernel of 7, found 16"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        FCN(2, settings)


@pytest.mark.slow
def test_four_images_by_heart():
    """Mean IoU of at least .95."""
    torch.manual_seed(0)
    shapes = draw_shapes(
        4, size=(96, 96), seed=1, class_names=("disk", "square", "star"), objects=(2, 3), diameter=(40, 60),
        truth="semantic",
    )  # fmt: skip
    samples = [shapes[n] for n in range(4)]
    transform = Transform()
    batch = transform([torch.from_numpy(s.image.transpose(2, 0, 1).copy()) for s in samples])
    settings = replace(LIGHT, backbone=replace(LIGHT.backbone, frozen_stages=0), channels=64)
    model = FCN(4, settings)
    load_backbone_weights(model.backbone, settings.backbone)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=300, pct_start=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        sum(model(batch, [sample.truth for sample in samples]).losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0, error_if_nonfinite=True)
        optimiser.step()
        schedule.step()
    model.eval()
    tally = SemanticTally(shapes.semantic_names)
    with torch.no_grad():
        detections = model(batch).detections
    results = in_pixels(detections, batch, [sample.truth.size for sample in samples])
    for found, sample in zip(results, samples, strict=True):
        tally.add(sample.truth.semantic, found.semantic)
    assert tally.result().metrics["semantic/mIoU"] >= 0.95, tally.result().per_class
