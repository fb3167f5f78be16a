"""timm's models as backbones: one of each family with random weights, what is refused, and settings."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from rcnn.layers.norm import FrozenBatchNorm, fold_batch_norm, uses_weights_as_they_are
from rcnn.parts import timm_models
from rcnn.parts.backbone import BackboneSettings, build_backbone, build_stage
from rcnn.parts.simple_pyramid import SimplePyramid

OLDER_TIMM = tuple(int(part) for part in timm.__version__.split(".")[:3]) < (1, 0, 31)
todays_timm = pytest.mark.skipif(
    OLDER_TIMM, reason="older timm has fewer families, and Swin of one size only"
)

# The smallest model of each family, or nearly, and the levels it has.
ALL, FROM_8, FROM_16 = (1, 2, 3, 4), (2, 3, 4), (3, 4)
TAKEN = {
    "byobnet": ("mobileone_s0", ALL),
    "convnext": ("convnext_atto", ALL),
    "cpubone": ("cpubone_nano", ALL),
    "csatv2": ("csatv2", FROM_8),
    "cspnet": ("cs3darknet_focus_s", ALL),
    "cspnext": ("cspnext_s", ALL),
    "davit": ("davit_tiny", ALL),
    "deepseek_vit": ("deepseek_vit_412m", ALL),
    "deit": ("deit_tiny_distilled_patch16_224", ALL),
    "densenet": ("densenet121", ALL),
    "dla": ("dla46_c", ALL),
    "dpn": ("dpn48b", ALL),
    "edgenext": ("edgenext_small", ALL),
    "efficientnet": ("efficientnet_b0", ALL),
    "efficientvim": ("efficientvim_m1", FROM_16),
    "efficientvit_mit": ("efficientvit_b0", ALL),
    "efficientvit_msra": ("efficientvit_m0", FROM_16),
    "eva": ("eva02_tiny_patch14_224", ALL),
    "fasternet": ("fasternet_t0", ALL),
    "fastvit": ("fastvit_t8", ALL),
    "focalnet": ("focalnet_tiny_srf", ALL),
    "gemma4_vit": ("gemma4_vit_167m", ALL),
    "ghostnet": ("ghostnet_050", ALL),
    "hardcorenas": ("hardcorenas_a", ALL),
    "hgnet": ("hgnetv2_b0", ALL),
    "hieradet_sam2": ("sam2_hiera_tiny", ALL),
    "hrnet": ("hrnet_w18_small", ALL),
    "iformer": ("iformer_s", ALL),
    "inception_next": ("inception_next_atto", ALL),
    "lcnetv2": ("lcnetv2_base", ALL),
    "lowformer": ("lowformer_b0", ALL),
    "mambaout": ("mambaout_femto", ALL),
    "metaformer": ("poolformerv2_s12", ALL),
    "mobilenetv3": ("lcnet_035", ALL),
    "mobilenetv5": ("mobilenetv5_base", ALL),
    "mobilevit": ("mobilevit_s", ALL),
    "mvitv2": ("mvitv2_tiny", ALL),
    "naflexvit": ("naflexvit_base_patch16_parfac_gap", ALL),
    "nasnet": ("nasnetalarge", ALL),
    "nextvit": ("nextvit_small", ALL),
    "nfnet": ("nf_regnet_b0", ALL),
    "pnasnet": ("pnasnet5large", ALL),
    "pvt_v2": ("pvt_v2_b0", ALL),
    "qwen3_vit": ("qwen3_vit_88m", ALL),
    "rdnet": ("rdnet_tiny", ALL),
    "regnet": ("regnetx_002", ALL),
    "repghost": ("repghostnet_050", ALL),
    "repvit": ("repvit_m0_9", ALL),
    "res2net": ("res2next50", ALL),
    "resnest": ("resnest14d", ALL),
    "resnet": ("resnet10t", ALL),
    "resnetv2": ("resnetv2_18", ALL),
    "rexnet": ("rexnet_100", ALL),
    "selecsls": ("selecsls42", ALL),
    "senet": ("legacy_seresnet18", ALL),
    "shvit": ("shvit_s1", FROM_16),
    "sknet": ("skresnet18", ALL),
    "starnet": ("starnet_s1", ALL),
    "swiftformer": ("swiftformer_s", ALL),
    "swin_transformer": ("swin_tiny_patch4_window7_224", ALL),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", ALL),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", ALL),
    "tiny_vit": ("tiny_vit_5m_224", ALL),
    "tresnet": ("tresnet_m", ALL),
    "twins": ("twins_svt_small", ALL),
    "vgg": ("vgg11", ALL),
    "vision_transformer": ("vit_tiny_patch16_224", ALL),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", ALL),
    "vision_transformer_sam": ("samvit_base_patch16_224", ALL),
    "vitamin": ("vitamin_small_224", ALL),
    "vovnet": ("ese_vovnet19b_dw", ALL),
    "xception": ("legacy_xception", FROM_8),
    "xception_aligned": ("xception41p", ALL),
    "xcit": ("xcit_nano_12_p8_224", ALL),
}
FIXED_SIZE = "cannot process an image of 128 x 160 pixels.*any size; choose another model"
UNALIGNED = "makes maps of the shapes .* do not fit its channels"
REFUSED = {
    "beit": ("beit_base_patch16_224", FIXED_SIZE),
    "byoanet": ("halonet_h1", FIXED_SIZE),  # blocks of 8 x 8 cells
    "cait": ("cait_xxs24_224", FIXED_SIZE),
    "coat": ("coat_lite_tiny", FIXED_SIZE),
    "convit": ("convit_tiny", FIXED_SIZE),
    "convmixer": ("convmixer_768_32", r"no map of stride 4; it has \[7\]: choose another model"),
    "crossvit": ("crossvit_tiny_240", r"no map of stride 4; it has \[12, 17\]: choose another model"),
    "efficientformer": ("efficientformer_l1", FIXED_SIZE),
    "efficientformer_v2": ("efficientformerv2_s0", FIXED_SIZE),
    "gcvit": ("gcvit_xxtiny", FIXED_SIZE),  # windows of 7 x 7 cells
    "hiera": ("hiera_tiny_224", FIXED_SIZE),
    "inception_resnet_v2": ("inception_resnet_v2", UNALIGNED),  # convolutions without padding
    "inception_v3": ("inception_v3", UNALIGNED),
    "inception_v4": ("inception_v4", UNALIGNED),
    "levit": ("levit_128s", r"no map of stride 4; it has \[16, 32, 64\]: set backbone\.levels to .*\[3, 4"),
    "maxxvit": ("maxvit_pico_rw_256", FIXED_SIZE),  # windows of 8 x 8 cells
    "mlp_mixer": ("gmlp_ti16_224", FIXED_SIZE),
    "nest": ("nest_tiny", r"no map of stride 32; it has \[4, 8, 16\]: set backbone\.levels to .*\[1, 2, 3\]"),
    "pit": ("pit_ti_224", r"no map of stride 4; it has \[8, 16, 32\]: set backbone\.levels to .*\[2, 3, 4\]"),
    "sequencer": ("sequencer2d_s", r"no map of stride 4; it has \[7, 14\]: choose another model"),
    "tnt": ("tnt_s_legacy_patch16_224", FIXED_SIZE),
    "vision_transformer_relpos": ("vit_srelpos_small_patch16_224", FIXED_SIZE),
    "visformer": ("visformer_tiny", r"no map of stride 4; .*set backbone\.levels to .*\[2, 3, 4\]"),
    "volo": ("volo_d1_224", FIXED_SIZE),
}
# Of each way that maps come: in a list, channels last, by a getter, by hooks, from one map.
QUICK = ("resnet", "convnext", "mobilenetv3", "swin_transformer", "vision_transformer", "xception_aligned")


def settings(name: str, levels: tuple[int, ...] = ALL, frozen: int = 0, **others: Any) -> BackboneSettings:
    return BackboneSettings(f"timm:{name}", levels, frozen, **others)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f in QUICK else pytest.mark.slow) for f in TAKEN]
)
@torch.no_grad()
def test_a_model_of_each_family(family: str) -> None:
    if family == "swin_transformer" and OLDER_TIMM:
        pytest.skip("older timm gives Swin one image size")
    """Maps of the promised shapes, in one batch and on an image of another size, and with norms folded."""
    torch.manual_seed(0)
    name, levels = TAKEN[family]
    backbone = build_backbone(settings(name, levels, norm="frozen")).eval()
    for norm in backbone.modules():
        if isinstance(norm, FrozenBatchNorm):
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.5, 2.0)
    assert backbone.strides == tuple(2 ** (level + 1) for level in levels)
    for size in ((64, 96), (96, 64)):
        images = torch.rand(2, 3, *size)
        maps = backbone(images)
        assert [tuple(m.shape) for m in maps] == [
            (2, c, -(-size[0] // s), -(-size[1] // s))
            for c, s in zip(backbone.channels, backbone.strides, strict=True)
        ]
    fold_batch_norm(backbone)
    for plain, folded in zip(maps, backbone(images), strict=True):
        assert_close(folded, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f in ("levit", "beit") else pytest.mark.slow) for f in REFUSED]
)
def test_what_cannot_be_a_backbone_is_refused_by_name(family: str) -> None:
    name, reason = REFUSED[family]
    with pytest.raises(ValueError, match=f"timm:{name}.*{reason}|{name}.*{reason}"):
        build_backbone(settings(name))


@todays_timm
def test_every_family_is_in_one_of_the_lists() -> None:
    assert sorted([*TAKEN, *REFUSED]) == timm.list_modules()
    for family, (name, _) in (TAKEN | REFUSED).items():
        assert name in timm.list_models(module=family)


@todays_timm
def test_maps_equal_timms() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(settings("swin_tiny_patch4_window7_224", (2, 4))).eval()
    theirs = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, strict_img_size=False)
    theirs.load_state_dict(backbone.maps.net.state_dict())  # type: ignore[union-attr]
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs.eval()(images)
        for own, other in zip(backbone(images), (expected[1], expected[3]), strict=True):
            assert_close(own, other.permute(0, 3, 1, 2))


def test_nothing_after_the_last_level_is_kept() -> None:
    whole, part = (build_backbone(settings("resnet10t", levels)) for levels in (ALL, (1, 2)))
    assert part.channels == whole.channels[:2]
    assert not any("layer3" in key or "layer4" in key for key in part.state_dict())


def test_patches_of_14_pixels_become_16() -> None:
    maps = timm_models.TimmMaps("eva02_tiny_patch14_224", (3,))
    assert maps.strides == (16,)
    (patches,) = [m for m in maps.modules() if isinstance(m, timm.layers.PatchEmbed)]
    assert patches.patch_size == (16, 16)


@pytest.mark.parametrize("name", ["resnet10t", "lcnet_035"])
def test_norms(name: str) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    frozen = build_backbone(settings(name)).train()
    assert any(isinstance(m, FrozenBatchNorm) for m in frozen.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())
    trained = build_backbone(settings(name, norm="batch"))
    frozen.load_state_dict({k: v for k, v in trained.state_dict().items() if "num_batches" not in k})
    with torch.no_grad():
        for own, expected in zip(frozen(images), trained.eval()(images), strict=True):
            assert_close(own, expected)
    with pytest.raises(ValueError, match=r'backbone\.norm "batch": timm:convnext_atto has no batch norm'):
        build_backbone(settings("convnext_atto", norm="batch"))


@pytest.mark.parametrize(
    ("name", "still", "moves"),
    [
        ("resnet10t", "layer1", "layer2"),
        ("lcnet_035", "blocks.1", "blocks.2"),
        ("convnext_atto", "stages_0", "stages_1"),
    ],
)
def test_frozen_stages(name: str, still: str, moves: str) -> None:
    backbone = build_backbone(settings(name, frozen=2)).train()
    trains = {key.removeprefix("maps.net."): p.requires_grad for key, p in backbone.named_parameters()}
    assert not any(value for key, value in trains.items() if key.startswith((still, "conv", "stem")))
    assert all(value for key, value in trains.items() if key.startswith(moves))
    modes = {name.removeprefix("maps.net."): module.training for name, module in backbone.named_modules()}
    assert (modes[still], modes[moves]) == (False, True)
    sum(m.sum() for m in backbone(torch.rand(2, 3, 64, 64))).backward()
    for key, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


def test_standardised_convolutions_are_left_alone() -> None:
    """Their weights are not what they multiply by: no faster form takes these over."""
    net = build_backbone(settings("nf_regnet_b0"))
    kinds = {type(m).__name__: uses_weights_as_they_are(m) for m in net.modules() if isinstance(m, nn.Conv2d)}
    assert kinds == {"ScaledStdConv2d": False, "Conv2d": True}


def test_all_of_it_can_be_frozen() -> None:
    backbone = build_backbone(settings("resnet10t", norm="batch"))
    backbone.freeze()
    assert not any(module.training for module in backbone.train().modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_settings_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"frozen_stages 2: timm:vit_tiny.* not divided into stages; set it"):
        build_backbone(settings("vit_tiny_patch16_224", frozen=2))
    with pytest.raises(ValueError, match=r"resnet19: timm .* has no such model; did you mean .*resnet"):
        build_backbone(settings("resnet19"))
    with pytest.raises(ValueError, match=r"resnet18\.mine: .*no weights of this name; it has resnet18\.a1"):
        build_backbone(settings("resnet18.mine"))
    with pytest.raises(ValueError, match=r"no map of stride 2; it has \[4, 8, 16, 32\]: .*\[1, 2, 3, 4\]"):
        build_backbone(settings("convnext_atto", (0, 1)))
    with pytest.raises(ValueError, match=r'"stage" uses a stage of the backbone, and timm:resnet10t is not'):
        build_stage(settings("resnet10t", (3,)), 4)


def test_normalisations() -> None:
    assert timm_models.normalisation("resnet18.a1_in1k")[0] == (0.485, 0.456, 0.406)
    assert timm_models.normalisation("vit_small_patch16_224.augreg_in1k") == ((0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match=r"resnet18\.mine: .*it has resnet18\.a1_in1k"):
        timm_models.normalisation("resnet18.mine")


def test_a_simple_pyramid() -> None:
    """ViTDet section 3, for ViT-B: 192, 384, 768 and 768 channels; two deconvolutions with a norm between."""
    pyramid = SimplePyramid(768, 16, (4, 8, 16, 32))
    assert pyramid.channels == (192, 384, 768, 768)
    features = torch.rand(2, 768, 3, 5, requires_grad=True)
    maps = pyramid(features)
    assert [tuple(m.shape[2:]) for m in maps] == [(12, 20), (6, 10), (3, 5), (1, 2)]
    kinds = [type(layer).__name__ for layer in pyramid.scales[0]]  # type: ignore[arg-type]
    assert kinds == ["ConvTranspose2d", "LayerNorm2d", "GELU", "ConvTranspose2d"]
    sum(m.sum() for m in maps).backward()
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())


def test_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the folder of weights, else by timm from the hub, which is not there."""
    monkeypatch.setenv("RCNN_WEIGHTS", str(tmp_path))
    torch.manual_seed(0)
    whole = timm.create_model("resnet10t")
    save_file(whole.state_dict(), tmp_path / "resnet10t.c3_in1k.safetensors")
    maps = timm_models.TimmMaps("resnet10t.c3_in1k", (1, 2), pretrained=True)
    assert_close(maps.net.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(timm_models.timm, "create_model", unreachable)
    with pytest.raises(
        OSError, match=r"timm:resnet10t: its weights .*not known\).*resnet10t\.safetensors in"
    ):
        timm_models.TimmMaps("resnet10t", (1, 2), pretrained=True)
