"""One batch with one set of weights: the loss and gradients of both paths."""

from __future__ import annotations

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import castssl
from castssl.labels import LabelTree
from castssl.objectives.segmentation import Segmentation
from castssl.types import Batch, View
from castssl_mmseg import CastEncoder, CastHead

CLASSES = 5


def test_loss_and_gradients_are_those_of_the_native_objective() -> None:
    spec = "seeds:count=64,bins=5,iterations=4"
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    target = torch.randint(-1, CLASSES, (2, 64, 64))
    target[1, :40] = -1
    view = View(torch.randn(2, 3, 64, 64), castssl.build("superpixels", spec)(pixels))
    tree = LabelTree.flat([str(number) for number in range(CLASSES)])
    native = Segmentation(castssl.create("nano_seg"), tree, head="segmenter", mean="process").double()
    backbone = CastEncoder(model="nano_seg").double()
    head = CastHead(in_channels=64, num_classes=CLASSES).double()
    backbone.encoder.load_state_dict(native.encoder.state_dict())
    head.head.load_state_dict(native.model.head.state_dict())
    for module in (native, backbone, head):
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout | torch.nn.Dropout1d):
                part.p = 0.0
    view = view._replace(image=view.image.double())
    outcome = native(Batch([view], target))
    outcome.loss.backward()
    inputs = torch.cat([view.image, view.segments[:, None].double()], 1)
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=labels[None].where(labels >= 0, 255))) for labels in target
    ]
    loss = head.loss(backbone(inputs), samples, {})["loss_ce"]
    loss.backward()
    torch.testing.assert_close(loss.float(), outcome.loss.float(), atol=1e-5, rtol=1e-5)
    theirs = dict(backbone.encoder.named_parameters()) | dict(head.head.named_parameters())
    ours = dict(native.encoder.named_parameters()) | dict(native.model.head.named_parameters())
    compared = 0
    for name, parameter in ours.items():
        if parameter.grad is not None:
            torch.testing.assert_close(theirs[name].grad, parameter.grad, atol=1e-5, rtol=1e-5)
            compared += 1
    assert compared > 40
