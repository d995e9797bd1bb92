"""The six plugin doors.

A Protocol declares both ``forward`` and ``__call__``: ``nn.Module.__call__`` is typed so loosely that
with ``__call__`` alone a type checker would accept every module.
Shape letters: B images, N tokens, K pooled tokens, D channels, H x W pixels, L label levels, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from castssl.encoder_config import EncoderConfig
from castssl.errors import ConfigError
from castssl.feed import Feed
from castssl.labels import LabelTree
from castssl.segmenter import Segmenter
from castssl.types import Batch, DenseTokens, Hierarchy, LabelAttention, Outcome, Pooled, Tokens, View

Need = Literal["keys", "received"]
Target = Literal["none", "path", "multihot", "map"]


class Superpixels:
    """Partition pixels.  No gradient, no state between calls."""

    runs_on: Literal["worker", "device"] = "worker"
    """Where it is called: in the data loader's processes, or on the device of the model."""
    count: int | None = None
    """How many superpixels were asked for; None if no number was."""
    channels: tuple[int, ...] = (0, 1, 2)
    """The three channels that stand for RGB in images of another number; set by castssl."""

    def capacity(self, height: int, width: int) -> int:
        """A static upper bound of the number of labels for this image size."""
        raise NotImplementedError(f"{type(self).__name__}.capacity")

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) RGB -> int32 (B, H, W), labels in [0, capacity(H, W))."""
        raise NotImplementedError(f"{type(self).__name__}.__call__")


class Pooling(nn.Module):
    """Turn N tokens into at most K."""

    needs: frozenset[Need] = frozenset()
    """What the model has to record of the attention before it."""

    def forward(self, tokens: Tokens, size: int) -> Pooled:
        """Pool ``tokens`` into ``size`` rows; ``ValueError`` unless 1 <= size <= N."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    if TYPE_CHECKING:

        def __call__(self, tokens: Tokens, size: int) -> Pooled: ...


class Visit(Protocol):
    """What :meth:`Encoder.visit_blocks` calls after a block."""

    def __call__(self, stage: int, tokens: Tokens) -> Tensor:
        """The tokens' x, float (B, N, D), as they are or changed; ``stage`` counts from 0."""
        ...


class Encoder(nn.Module):
    """Turn a view into a hierarchy of tokens.

    A factory of the group ``castssl.encoders`` is registered as KIND and called with a config named
    ``KIND:NAME``, where NAME means what the plugin likes.  It draws the weights from torch's global
    generator.  The last class token depends on every parameter that is trained, and so do dense tokens.  In
    evaluation mode two calls give the same, and an image's result does not depend on its neighbors.
    """

    dim: int
    """Width of the class tokens."""
    sizes: tuple[int, ...]
    """Token budget per stage."""
    config: EncoderConfig
    """What builds an equal encoder: the factory's config with ``sizes`` and ``dim`` filled in."""
    takes_constants: bool = False
    """True if it reads RGB with the config's ``mean`` and ``std``; castssl's own models do without this."""
    uses_superpixels: bool = True
    """False if the tokens are cells of the encoder's own, so no superpixel has to fit."""
    stride: int = 1
    """Pixels per side of a cell of the stem: sides of images are best multiples of it."""

    dense_dim: int | None = None
    """Width of the tokens that :meth:`dense` returns, for segmentation; None if the encoder has none."""

    @property
    def stages_with_cls(self) -> int:
        """How many of the first stages serve the class token; :meth:`forward` returns these."""
        return len(self.sizes)

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Width of each stage's tokens and class token; that of the last class token is :attr:`dim`."""
        return (self.dim,) * len(self.sizes)

    @property
    def last_norm(self) -> nn.Module | None:
        """The norm of the last class token, which a head on an earlier stage may share; None without one."""
        return None

    @property
    def visits(self) -> tuple[int, ...]:
        """How often :meth:`visit_blocks` visits each stage that :meth:`forward` returns."""
        return (1,) * self.stages_with_cls

    takes_updates: bool = False
    """True if the tokens that a visit returns pass on into the next block or stage."""

    def forward(self, view: View) -> Hierarchy:
        """The stages, fine to coarse; ``ContractError`` if ``view`` is not a view of normalized images."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def segment(self, view: View, sizes: Sequence[int] | None = None) -> Hierarchy:
        """All stages, also those that exist for the segmentation alone.

        Args:
            view: as in :meth:`forward`.
            sizes: other token budgets than the encoder's own, with the same weights.

        Raises:
            ConfigError: if the encoder cannot have these sizes.
        """
        self.check_sizes(sizes)
        return self(view)

    def visit_blocks(self, view: View, visit: Visit) -> Hierarchy:
        """As :meth:`forward`, with a call of ``visit`` after each block: for what reads tokens on the way.

        By default ``visit`` is called once per stage, after all of them, and what it returns is not used.

        Args:
            view: as in :meth:`forward`.
            visit: called in the order of the blocks, :attr:`visits` times for each stage.
        """
        hierarchy = self(view)
        for stage, tokens in enumerate(hierarchy.stages):
            visit(stage, tokens)
        return hierarchy

    def check_sizes(self, sizes: Sequence[int] | None) -> None:
        """Refuse other token budgets than the encoder's own.

        Raises:
            ConfigError: naming both.
        """
        if sizes is not None and tuple(sizes) != self.sizes:
            raise ConfigError(
                f"a {type(self).__name__} has the sizes {self.sizes} and no others, got {tuple(sizes)};"
                " leave sizes out, or ask for fewer superpixels"
            )

    def dense(self, view: View, sizes: Sequence[int] | None = None) -> DenseTokens:
        """The finest tokens, after all stages, for predictions at each pixel.

        Args:
            view: as in :meth:`forward`.
            sizes: as in :meth:`segment`.

        Raises:
            ConfigError: if :attr:`dense_dim` is None.
        """
        raise ConfigError(
            f"a {type(self).__name__} has no tokens for segmentation: define dense(view) and dense_dim, or"
            " take another encoder"
        )

    if TYPE_CHECKING:

        def __call__(self, view: View) -> Hierarchy: ...


class Model(nn.Module):
    """What an objective trains: an encoder, and the heads that learn with it.

    Args:
        encoder: what is kept of the training.
        heads: modules beside it; each becomes an attribute of its name.  A subclass declares their types::

            class Guess(Model):
                head: nn.Linear

            model = Guess(encoder, head=nn.Linear(encoder.dim, 3))
    """

    encoder: Encoder

    def __init__(self, encoder: Encoder, **heads: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        for name, head in heads.items():
            self.add_module(name, head)

    def feature(self, view: View) -> Tensor:
        """The class token of the encoder's last stage: float (B, D)."""
        return self.encoder(view).stages[-1].cls[:, 0]

    def embed(self, feature: Tensor) -> Tensor:
        """What the loss compares, (B, E), of class tokens (B, D): by default these themselves."""
        return feature


class Objective(nn.Module):
    """Own everything beyond the encoder, and turn a batch into a loss.

    A subclass sets :attr:`model` when it is built, and defines :meth:`forward`; the rest has defaults.  All
    parameters that require a gradient are in the model; a moving average or a momentum encoder is a copy of
    the model, or of a part of it, beside it.
    """

    views: int = 1
    """Views of each image that a batch has."""
    target: Target = "none"
    """What the batch's target is."""
    text_dim: int = 0
    """Width of the text embeddings that it reads in training mode; 0 if it reads none."""
    model: Model
    """What is trained; its encoder is the one that the factory was given."""

    @property
    def encoder(self) -> Encoder:
        """The encoder that is trained."""
        return self.model.encoder

    def forward(self, batch: Batch) -> Outcome:
        """The loss of a batch; ``ValueError`` unless it has the declared views and target."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    if TYPE_CHECKING:

        def __call__(self, batch: Batch) -> Outcome: ...

    def branches(self) -> Mapping[str, Model]:
        """The model as ``base``, and its copies, such as ``momentum`` or ``ema``."""
        return {"base": self.model}

    def branch(self, name: str) -> Encoder:
        """The encoder of one of :meth:`branches`.

        Raises:
            ConfigError: if there is no such branch.
        """
        if name not in self.branches():
            names = ", ".join(self.branches())
            raise ConfigError(f"{type(self).__name__} has no branch {name!r}; expected one of: {names}")
        return self.branches()[name].encoder

    def after_step(self, progress: float) -> None:
        """Runs once per optimizer step with the share of steps done, in (0, 1]; nothing by default."""

    def predict(self, view: View) -> Mapping[str, Tensor]:
        """Logits by name, (B, C), or (B, C, h, w) of target "map"; {} if it predicts nothing."""
        return {}

    def label_attention(self, view: View) -> LabelAttention | None:
        """What each label of target "multihot" attends to; None if labels attend to nothing."""
        return None


class Source(Protocol):
    """Encoded images by row.  It is pickled into data-loader workers, so it holds no open file."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def open(self, row: int) -> IO[bytes]:
        """An open binary file with the encoded image."""
        ...

    def name(self, row: int) -> str:
        """What to call the image: its path below the split if it is a file."""
        ...

    def path(self, row: int) -> str:
        """Where the user finds the image, for messages."""
        ...


class LabelMaps(NamedTuple):
    """The label maps of the images of a listing, for the target "map"."""

    source: Source
    """Encoded images of one channel, one for each image, of its size."""
    classes: Mapping[int, int]
    """The class of each value that the files may have, -1 for unknown; any other value is an error."""
    palette: tuple[tuple[int, int, int], ...] = ()
    """The RGB color of each class in images of segmentations; () if the data set has none."""


class Listing(NamedTuple):
    """One split whose images can be opened in any order."""

    source: Source
    targets: Tensor
    """One row for each row of ``source``.  Of target "path": int64 (n, L), label paths coarse to fine, -1
    from the level on at which a label is unknown; L is 0 if the images have no labels.  Of "map": int64
    (n, 0), and ``maps`` holds the labels.  Of "multihot": see :mod:`castssl.datasets.many_labels`."""
    tree: LabelTree
    """The classes, the same for all splits; ``LabelTree.none()`` if the images have no labels; of target
    "map" one level, the classes of pixels."""
    masks: Path | None = None
    """A folder of object masks, ``.png`` files with the names of the images."""
    left_out: tuple[str, ...] = ()
    """Sentences about files and folders that are not part of the data set."""
    maps: LabelMaps | None = None
    """The label maps, of target "map"."""


class DataSet:
    """Turn what follows ``--data NAME:`` into the images and labels of a split.

    A subclass defines :meth:`open`, and changes those attributes that do not fit; it is registered by its
    name as an entry point of the group ``castssl.datasets``, and imports from :mod:`castssl.datasets`.  A
    folder of images with ``train.txt`` and ``val.txt``, which hold lines ``name.jpg class``, is::

        class Labels(DataSet):
            location = "/folder"
            splits = ("train", "val")

            def open(self, location: str, split: str) -> Listing:
                root = Path(location)
                if root.exists() and not (root / f"{split}.txt").exists():
                    raise NoSplit(f"{root} has no {split} split")
                train, own = (read_text(root / f"{name}.txt").splitlines() for name in ("train", split))
                tree = LabelTree.from_paths([line.split()[1:] for line in train])
                targets = tree.number([line.split()[1:] for line in own])
                return Listing(Files(root, [line.split()[0] for line in own]), targets, tree)

    ``castssl check datasets NAME:LOCATION`` says which promise is broken; ``castssl new-plugin datasets
    NAME`` writes a package to start from.
    """

    location: str = "/path"
    """What a location looks like, for messages; "" if the data set needs none."""
    splits: tuple[str, ...] = ("train", "val", "test")
    """The splits that it may have; only these are asked for.  Training needs "train"."""
    indexed: bool = True
    """True if :meth:`open` returns a :class:`Listing`, False if it returns a :class:`castssl.feed.Feed`."""
    target: Target = "path"
    """What its targets are."""
    commands: bool = False
    """Set by castssl: True if the user allows that commands which the location holds are run."""

    def open(self, location: str, split: str) -> Listing | Feed:
        """One split.  Decodes no image, and writes nothing into the data's folder.

        Args:
            location: what follows ``NAME:``, such as the path of a folder.
            split: one of :attr:`splits`.

        Raises:
            DataError: if there is no data at ``location``, or it is not as expected; the message says where.
            NoSplit: if the data is there, but has no such split.
        """
        raise NotImplementedError(f"{type(self).__name__}.open")

    def example(self, folder: Path) -> str:
        """Write a tiny data set into an empty folder and return its location, for ``castssl check``.

        It should have a train and a val split, and more than one class.  "": there is no example, and the
        check needs the location of real data.
        """
        return ""


BASES: dict[str, type] = {
    "superpixels": Superpixels,
    "pooling": Pooling,
    "objectives": Objective,
    "datasets": DataSet,
    "encoders": Encoder,
    "segmenters": Segmenter,
}
"""The base class of what a factory of each kind returns."""
