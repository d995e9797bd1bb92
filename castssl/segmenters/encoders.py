"""``cast`` and ``kmeans``: the hierarchy of an encoder, and its tokens in groups by spherical K-means.

CAST, https://arxiv.org/abs/2210.00314, figure 5, and appendix E.5 for K-means.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt

from castssl.checkpoints.load import load_encoder
from castssl.contracts import Encoder
from castssl.data.rng import seeded
from castssl.datasets.multichannel import RGB
from castssl.devices import check_device
from castssl.errors import ConfigError, DataError
from castssl.evaluation.retrieval import group_tokens
from castssl.inference.load import TIMM, of_timm
from castssl.inference.segment import prepare, resize_labels, segment
from castssl.modes import evaluating
from castssl.pooling.spherical_kmeans import spherical_kmeans
from castssl.registry import build_superpixels
from castssl.segmenter import Segmenter, check_image, consecutive
from castssl.segmenters.levels import SIZES, check_sizes

LARGEST = 2**20
"""Pixels of the maps that K-means interpolates; a larger image gets the labels of the nearest pixels."""


class Cast(Segmenter):
    """The hierarchy of an encoder's own segments: ``cast:RUN``, ``cast:hf:USER/NAME``.

    The levels are the encoder's stages as :func:`castssl.segment` finds them, the superpixels first.  A pixel
    whose superpixel was too small to become a token joins the segments of the nearest pixel that has some.
    No loss reaches the segments of a stage without blocks, the coarsest of the published models.

    Args:
        source: weights, as :func:`castssl.checkpoints.read` takes them.
        image_size: shorter side of the encoder's input in pixels; by default the image's own, 128 to 384.
        superpixels: another backend than the encoder was trained with.
        sizes: other token budgets, one for each stage.
        device: where to run; by default cuda if there is one, else cpu.

    Raises:
        ConfigError: if the encoder takes other than RGB images.
        DataError: if there are no weights at ``source``, or they cannot be read.
    """

    nested = True

    def __init__(
        self,
        source: str,
        *,
        image_size: int | None = None,
        superpixels: str | None = None,
        sizes: tuple[int, ...] | None = None,
        device: str = "",
    ) -> None:
        self.encoder = _load(source, device)
        self.image_size, self.superpixels = image_size, superpixels
        self.sizes = None if sizes is None else check_sizes(sizes)
        self.untrained = len(self.encoder.sizes) - self.encoder.stages_with_cls

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> NDArray[np.int32]:
        """uint8 (H, W, 3) -> int32 (stages, H, W)."""
        check_image(image)
        with seeded(0):
            found = segment(
                Image.fromarray(image),
                self.encoder,
                superpixels=self.superpixels,
                sizes=self.sizes,
                image_size=self.image_size,
            )
        return consecutive(fill(np.stack([found.labels(stage).numpy() for stage in range(len(found))])))


class KMeans(Segmenter):
    """An encoder's tokens in groups by spherical K-means: ``kmeans:RUN``, ``kmeans:timm:NAME``.

    As in appendix E.5, fine to coarse: the tokens are clustered into the first of ``sizes``, and the means of
    these clusters, each counting once, into the next, so that the levels are nested.  The tokens are those of
    the encoder's ``dense``: of a ViT the last ones after its last norm (the released code takes them before
    it).  On a grid, a pixel joins the cluster that is nearest to the bilinear interpolation of the features;
    the paper clusters the interpolated features themselves.

    Args:
        source: weights, as :func:`castssl.checkpoints.read` takes them; or ``timm:NAME``, a model of timm.
        sizes: clusters of each level, fine to coarse.
        image_size: side of the encoder's input in pixels, see :func:`castssl.segment`.
        pretrained: of ``timm:NAME``: with timm's weights, which are downloaded once; else with random ones.
        seed: of K-means, and of random weights.
        device: where to run; by default cuda if there is one, else cpu.

    Raises:
        ConfigError: if the encoder takes other than RGB images.
        DataError: if the weights cannot be read.
        ValueError: if timm knows no such model.
    """

    nested = True

    def __init__(
        self,
        source: str,
        *,
        sizes: tuple[int, ...] = SIZES,
        image_size: int | None = None,
        pretrained: bool = True,
        seed: int = 0,
        device: str = "",
    ) -> None:
        self.sizes, self.seed, self.image_size = check_sizes(sizes), seed, image_size
        if source.startswith(TIMM):
            with seeded(seed):
                self.encoder = of_timm(source.removeprefix(TIMM), image_size, pretrained).to(_device(device))
        else:
            self.encoder = _load(source, device)
        self.superpixels = build_superpixels(self.encoder.config)

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8], name: str = "") -> NDArray[np.int32]:
        """uint8 (H, W, 3) -> int32 (levels, H, W); ConfigError if the encoder has no dense tokens."""
        check_image(image)
        height, width = image.shape[:2]
        encoder, photo = self.encoder, Image.fromarray(image)
        with seeded(0), evaluating(encoder):
            _, view, budgets = prepare(photo, encoder, self.superpixels, image_size=self.image_size)
            tokens = encoder.dense(view, budgets)
        scale = min(1.0, (LARGEST / (height * width)) ** 0.5)
        painted = max(1, int(height * scale)), max(1, int(width * scale))
        finest, *coarser = self.sizes
        found = group_tokens(tokens.x.float(), tokens, finest, self.seed, painted)
        labels = fill(resize_labels(found.labels[0].cpu(), height, width).numpy()[None])
        maps, centers = [labels[0]], found.features
        for size in coarser:
            clusters = spherical_kmeans(centers, centers.norm(dim=-1) > 0, size, seed=self.seed)
            maps.append(clusters.group[0].cpu().numpy()[maps[-1]])
            centers = clusters.centers
        return consecutive(np.stack(maps))


def fill(maps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Label maps (L, H, W) without -1: a pixel without a segment takes those of the nearest pixel with one.

    The first level decides which pixel has none.
    """
    without = maps[0] < 0
    if not without.any() or without.all():
        return maps
    y, x = distance_transform_edt(without, return_distances=False, return_indices=True)
    return maps[:, y, x]


def _device(name: str) -> str:
    return check_device(name) if name else "cuda" if torch.cuda.is_available() else "cpu"


def _load(source: str, device: str) -> Encoder:
    """The encoder of a source of weights."""
    if not source:
        raise DataError("expected NAME:WEIGHTS, such as cast:runs/demo, got no weights")
    encoder = load_encoder(source)
    if encoder.config.channels not in RGB:
        raise ConfigError(
            f"{source}: expected a model of RGB images, got {encoder.config.channels} channels; segmenters"
            " read RGB only, and `castssl segment --weights` reads images of other channels"
        )
    return encoder.to(_device(device))
