"""timm's models: one stage, or a ViT's blocks in several."""

from __future__ import annotations

from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from castssl.checkpoints import load_encoder
from castssl.checkpoints.native import save_encoder
from castssl.data.normalize import normalize
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.models.timm_encoder import TimmEncoder
from castssl.objectives.tree_kl import TreeKL
from castssl.testing.claims import claim_trained
from castssl.types import View

VIT = "test_vit"
"""timm's own for tests: 6 blocks."""
SIDE, CELLS = 32, 4
TREE = LabelTree((2, 3, 5), ((0, 0, 1), (0, 0, 1, 1, 2)))


def made(stages: int, name: str = VIT) -> TimmEncoder:
    torch.manual_seed(0)
    return TimmEncoder(name, image_size=SIDE, stages=stages).eval()


def test_downloaded_weights_read_images_as_they_were_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views are normalized with ImageNet's constants, and many weights of timm with others."""
    random = timm.create_model

    def downloaded(name: str, *, pretrained: bool, **options: Any) -> Any:
        network: Any = random(name, **options)
        network.pretrained_cfg = {**network.pretrained_cfg, "mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1)}
        assert pretrained
        return network

    monkeypatch.setattr(timm, "create_model", downloaded)
    encoder = TimmEncoder(VIT, image_size=SIDE, pretrained=True).eval()
    pixels = torch.randint(256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    own = (pixels / 255 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.3, 0.2, 0.1])[
        :, None, None
    ]
    with torch.no_grad():
        found = encoder.dense(View(normalize(pixels), torch.zeros(2, 0, 0, dtype=torch.int32)))
        expected = cast(Any, encoder.network).forward_features(own)[:, 1:]
    torch.testing.assert_close(found.x, expected, atol=1e-4, rtol=1e-4)
    monkeypatch.undo()
    again = create(encoder.config)
    assert isinstance(again, TimmEncoder)
    assert again.conversion is not None
    torch.testing.assert_close(again.conversion, encoder.conversion)


def view(batch: int = 2) -> View:
    image = torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return View(image, torch.zeros(batch, 0, 0, dtype=torch.int32))


def by_hand(encoder: TimmEncoder, images: View, blocks: int) -> Tensor:
    """Class token and patches after so many blocks, not normed: a hook sees them pass."""
    seen: list[Tensor] = []
    network = cast(Any, encoder.network)
    hook = network.blocks[blocks - 1].register_forward_hook(lambda *now: seen.append(now[2]))
    network(images.image)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(("stages", "ends"), [(3, (2, 4, 6)), (2, (3, 6)), (4, (2, 3, 5, 6))])
def test_stages_end_after_equal_parts_of_the_blocks(stages: int, ends: tuple[int, ...]) -> None:
    encoder, images = made(stages), view()
    with torch.no_grad():
        hierarchy = encoder(images)
        assert encoder.sizes == (CELLS,) * stages
        for tokens, end in zip(hierarchy.stages[:-1], ends, strict=False):
            expected = by_hand(encoder, images, end)
            torch.testing.assert_close(tokens.cls, expected[:, :1])
            torch.testing.assert_close(tokens.x, expected[:, 1:])
        assert encoder.last_norm is not None
        last = encoder.last_norm(by_hand(encoder, images, 6))
        torch.testing.assert_close(hierarchy.stages[-1].cls, last[:, :1])
        torch.testing.assert_close(hierarchy.stages[-1].x, last[:, 1:])


def test_one_stage_is_the_last_of_several_bit_for_bit() -> None:
    one, four, images = made(1), made(4), view()
    assert one.state_dict().keys() == four.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(one(images).stages[0].cls, four(images).stages[-1].cls)
        assert torch.equal(one(images).stages[0].x, four(images).stages[-1].x)
    assert one(images).assigns == ()


def test_every_stage_has_the_same_cells() -> None:
    hierarchy = made(3)(view())
    for stage in range(3):
        assert torch.equal(hierarchy.labels(stage), hierarchy.segments.long())
        assert hierarchy.stages[stage].mass.sum() == 2 * CELLS
    assert sorted(set(hierarchy.labels(0).flatten().tolist())) == [0, 1, 2, 3]


def test_hier_vit_reads_blocks_6_9_and_12_through_the_shared_norm() -> None:
    encoder, images = made(4, "vit_tiny_patch16_224"), view()
    objective = TreeKL(encoder, TREE, weight=0, norm="shared").eval()
    assert encoder.last_norm is not None
    with torch.no_grad():
        found = objective.predict(images)
        for level, blocks in enumerate((12, 9, 6)):
            token = encoder.last_norm(by_hand(encoder, images, blocks)[:, 0])
            torch.testing.assert_close(found[f"level{level}"], objective.model.level_heads[level](token))


def test_all_blocks_learn() -> None:
    encoder = made(2).train()
    hierarchy = encoder(view())
    total = torch.stack([tokens.cls.square().mean() for tokens in hierarchy.stages]).sum()
    total.backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_the_class_token_is_the_first_of_several_prefix_tokens() -> None:
    encoder, images = made(2, "deit_tiny_distilled_patch16_224"), view()
    with torch.no_grad():
        first = encoder(images).stages[0]
        expected = by_hand(encoder, images, 6)
    torch.testing.assert_close(first.cls, expected[:, :1])
    assert first.x.shape[1] == encoder.sizes[0]


@pytest.mark.parametrize(
    ("name", "sizes", "output"),
    [
        ("test_resnet", (4, 4), "no class token"),
        ("test_vit2", (4, 4), "no class token"),
        (VIT, (4,) * 7, "6 blocks"),
        (VIT, (4, 2), r"4 tokens at 32 pixels .* got sizes \(4, 2\)"),
        (VIT, (9,), r"give 4 once"),
    ],
)
def test_stages_that_a_model_cannot_have(name: str, sizes: tuple[int, ...], output: str) -> None:
    with pytest.raises(ConfigError, match=output):
        create(f"timm:{name}", image_size=SIDE, sizes=sizes)


def test_a_model_without_stochastic_depth_refuses_a_rate() -> None:
    with pytest.raises(ConfigError, match=r"vgg11 takes no stochastic depth: got drop_path=0\.1, expected 0"):
        create("timm:vgg11", image_size=SIDE, drop_path=0.1)


def test_it_is_named_by_its_sizes_and_built_again(tmp_path: Any) -> None:
    encoder = create(f"timm:{VIT}", image_size=SIDE, sizes=(CELLS,) * 3)
    assert isinstance(encoder, TimmEncoder)
    again = load_encoder(save_encoder(encoder.eval(), tmp_path / "e.safetensors"))
    assert again.sizes == (CELLS,) * 3
    with torch.no_grad():
        for a, b in zip(encoder(view()).stages, again(view()).stages, strict=True):
            assert torch.equal(a.cls, b.cls)


def test_no_shape_depends_on_data() -> None:
    encoder = made(3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.empty(2, 3, SIDE, SIDE)
        hierarchy = encoder(View(image, torch.zeros(2, 0, 0, dtype=torch.int32)))
    assert [tokens.x.shape for tokens in hierarchy.stages] == [(2, CELLS, encoder.dim)] * 3


@pytest.mark.parametrize("name", ["test_convnext", "test_vit4"])
def test_dense_tokens_give_a_gradient_to_all_that_is_trained(name: str) -> None:
    """DDP waits for that of the norm after the model's own pooling, too, which dense tokens do not pass."""
    encoder = made(1, name)
    with torch.no_grad():
        expected = encoder.dense(view()).x
    found = encoder.dense(view()).x
    assert torch.equal(found, expected)
    found.square().sum().backward()
    claim_trained(encoder)


def test_it_compiles_as_one_graph() -> None:
    encoder, images = made(3), view()
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images).stages[1].cls, encoder(images).stages[1].cls)
    torch.compiler.reset()


def test_the_weights_are_timms_own() -> None:
    network = timm.create_model(VIT, num_classes=0, img_size=SIDE)
    loaded = made(4).network.load_state_dict(network.state_dict())
    assert not loaded.missing_keys
    assert not loaded.unexpected_keys


def test_tokens_may_have_another_width_than_the_class_token() -> None:
    encoder = made(1, "mobilenetv3_small_050")
    with torch.no_grad():
        (stage,) = encoder(view()).stages
    assert (stage.x.shape[-1], stage.cls.shape[-1]) == (encoder.stage_dims[0], encoder.dim) == (288, 1024)
    assert made(3).stage_dims == (64, 64, 64)
