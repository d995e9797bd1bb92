"""Encoders on the Hugging Face hub: ``save_pretrained``, ``from_pretrained``, ``push_to_hub``, a model card.

huggingface_hub's mixin does the work; what is ours is that ``config.json`` holds the settings of
:func:`castssl.models.create.create`, and that weights are safetensors only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.errors import CastError, ConfigError, DataError
from castssl.files import not_safetensors, write_tensors
from castssl.modes import kept_random_state

if TYPE_CHECKING:
    from typing_extensions import Self

SIDE = 224
"""Pixels of an image's side, where settings do not say."""
METADATA = "castssl"
"""Under this key the weights file, too, holds the settings, so that it can be used without its folder."""
CARD = """---
{{ card_data }}
---

# {{ model_name }}

A [CAST](https://arxiv.org/abs/2210.00314) encoder, trained with castssl: a vision transformer whose tokens
are superpixels.  In one pass it gives a feature of the image and a segmentation from fine to coarse.

| | |
| --- | --- |
| model | `{{ model }}`, {{ parameters }} parameters |
| image size | {{ image_size }} pixels, normalised with ImageNet's mean and standard deviation |
| superpixels | `{{ superpixels }}` |
| sizes | {{ sizes }} tokens, fine to coarse; others work with the same weights |
| pooling | `{{ pooling }}` |
{% if details %}
{{ details }}
{% endif %}
## Use

```python
import castssl
from castssl.models.cast import CAST

encoder = CAST.from_pretrained("{{ repo_id | default("USER/NAME", true) }}")
found = castssl.segment("photo.jpg", encoder, superpixels="{{ superpixels }}")
labels, features = found.labels(-1), found.features(-1)  # of the coarsest stage
```

`encoder(view).stages[-1].cls` is the image's feature.

## Licence

The weights: {{ licence }}.  castssl itself: Apache-2.0.
"""


class Shareable(
    ModelHubMixin, model_card_template=CARD, library_name="castssl", tags=["superpixels", "cast"]
):
    """What an encoder inherits to be saved with its settings, and to be built again from them."""

    @property
    def settings(self) -> dict[str, Any] | None:
        """``name`` or ``shape``, options of ``create``, and ``superpixels``; None if it was built by hand."""
        held: Any = self._hub_mixin_config
        return dict(held) if isinstance(held, dict) and {"name", "shape"} & held.keys() else None

    def save_pretrained(
        self, save_directory: str | Path, *, config: Any = None, **options: Any
    ) -> str | None:
        """Write ``model.safetensors``, ``config.json`` and ``README.md`` into a folder.

        Args:
            save_directory: made if need be; a README.md that is there stays.
            config: settings in place of the encoder's own; needed where it was built without ``create``.
            options: the mixin's: ``push_to_hub``, ``repo_id``, and ``model_card_kwargs`` with ``licence``
                (default: Apache-2.0), ``details`` (Markdown), ``model_name``.

        Raises:
            ConfigError: if it is not known how to build the encoder again.
        """
        held = self.settings if config is None else dict(config)
        if held is None:
            raise ConfigError(
                f"this {type(self).__name__} was built by hand, so its config.json would not tell how to"
                " build it again: make it with castssl.create, or pass config={'name': ..., ...}"
            )
        remember(self, **held)
        # The card's template reads them; the mixin would call it with the caller's arguments alone.
        card = {**_card(self, held), **(options.pop("model_card_kwargs", None) or {})}
        card.setdefault("repo_id", options.get("repo_id"))
        done: str | None = super().save_pretrained(
            save_directory, config=held, model_card_kwargs=card, **options
        )
        return done

    def generate_model_card(self, *args: Any, **options: Any) -> ModelCard:
        """The card of this encoder; the options are the template's fields."""
        return super().generate_model_card(*args, **{**_card(self, self.settings or {}), **options})

    def _save_pretrained(self, save_directory: Path) -> None:
        state = cast(nn.Module, self).state_dict()
        metadata = {METADATA: json.dumps(self.settings)}
        write_tensors(save_directory / SAFETENSORS_SINGLE_FILE, state, metadata)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, config: dict[str, Any] | None = None, **options: Any) -> Self:
        where = {key: options.pop(key) for key in _WHERE if key in options}
        if not config or not {"name", "shape"} & config.keys():
            raise DataError(f"{model_id} has no config.json of a castssl encoder; got {sorted(config or {})}")
        local = Path(model_id) / SAFETENSORS_SINGLE_FILE
        if Path(model_id).is_dir() and not local.is_file():
            raise DataError(f"no {SAFETENSORS_SINGLE_FILE} in {model_id}; castssl reads no other weights")
        path = local if local.is_file() else hf_hub_download(model_id, SAFETENSORS_SINGLE_FILE, **where)
        settings = {**config, **options}
        state = _tensors(path)
        check_settings(settings, {name: tuple(t.shape) for name, t in state.items()}, path, rebuild)
        encoder = rebuild(settings)
        if not isinstance(encoder, cls):
            raise ConfigError(
                f"{model_id} holds a {type(encoder).__name__}: call {type(encoder).__name__}.from_pretrained"
            )
        try:
            cast(nn.Module, encoder).load_state_dict(state)
        except RuntimeError as error:
            raise DataError(
                f"{path} does not hold the weights that config.json describes: {error}"
            ) from error
        cast(nn.Module, encoder).eval()
        return encoder


def _tensors(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is no whole safetensors file: {not_safetensors(path, error)}") from error


_PASSING = {"drop_path", "published", "recogniser"}
"""Settings that say nothing about how an encoder is built for use."""
_WHERE = ("revision", "cache_dir", "force_download", "local_files_only", "token")


def remember(encoder: object, **settings: Any) -> None:
    """Note how an encoder was made, for ``config.json``; encoders that cannot be shared are left alone."""
    if isinstance(encoder, Shareable):
        kept = {key: value for key, value in settings.items() if key not in _PASSING}
        encoder._hub_mixin_config = json.loads(json.dumps(kept))


def check_settings(
    settings: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    source: object,
    build: Callable[[Mapping[str, Any]], object],
) -> None:
    """Refuse settings whose encoder is not the one that the tensors of a file are of.

    Settings come from strangers: without this, a few bytes of them could ask for any amount of memory.

    Args:
        settings: of the file.
        shapes: of the encoder's tensors in it, by name.
        source: the file, for the message.
        build: makes the encoder of settings; it is called where tensors have shapes and no memory.

    Raises:
        DataError: with the first difference.
    """
    shape = settings.get("shape")
    depths = shape.get("depths", ()) if isinstance(shape, dict) else ()
    try:
        if sum(depths) > len(shapes):
            raise ValueError(f"{sum(depths)} blocks in {len(shapes)} tensors")
        with torch.device("meta"):
            built = build(settings)
        _check_values(settings, cast(Encoder, built).sizes)
        wanted = cast(nn.Module, built).state_dict()
    except CastError:
        raise
    except Exception as error:  # a stranger's numbers fail in many ways
        raise DataError(
            f"the settings in {source} describe no encoder ({error}); it is damaged, or of a newer castssl"
        ) from error
    asked = {name: tuple(value.shape) for name, value in wanted.items()}
    differ = [name for name in {**asked, **shapes} if shapes.get(name) != asked.get(name)]
    if differ:
        name = differ[0]
        raise DataError(
            f"{source} does not hold the weights that its settings describe: {name} has shape"
            f" {shapes.get(name)}, expected {asked.get(name)} ({len(differ)} tensors differ); None:"
            " there is no such tensor"
        )


def _check_values(settings: Mapping[str, Any], sizes: Sequence[object]) -> None:
    """Refuse what no tensor's shape depends on, and a forward would ask memory for."""
    spec, side = settings.get("superpixels"), settings.get("image_size") or SIDE
    if not isinstance(spec, str | None):
        raise ValueError(f"superpixels are a name, got {spec!r}")
    if not isinstance(side, int) or not all(isinstance(size, int) and size <= side**2 for size in sizes):
        raise ValueError(
            f"sizes are whole numbers up to the {side} x {side} pixels of an image, got {tuple(sizes)}"
        )


@kept_random_state()
def rebuild(settings: Mapping[str, Any]) -> object:
    """The encoder of these settings, with weights of its own.

    Raises:
        ConfigError: if a setting is unknown or does not fit.
    """
    from castssl.models.create import Preset, assemble, create, unloaded

    options = {key: value for key, value in settings.items() if key not in {"name", "shape", "superpixels"}}
    try:
        if "shape" in settings:
            shape: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in settings["shape"].items()
            }
            encoder: object = assemble(Preset(**shape), **options)
        else:
            encoder = create(unloaded(settings["name"]), **options)
    except TypeError as error:
        raise ConfigError(f"config.json: {error}; was it written by a newer castssl?") from error
    remember(encoder, **settings)
    return encoder


def _card(encoder: Shareable, settings: Mapping[str, Any]) -> dict[str, Any]:
    module = cast(Any, encoder)
    model = settings.get("name") or type(encoder).__name__
    return {
        "model_name": model,
        "model": model,
        "parameters": f"{sum(p.numel() for p in module.parameters()):,}",
        "image_size": settings.get("image_size", SIDE),
        "superpixels": settings.get("superpixels", "seeds"),
        "sizes": ", ".join(map(str, module.sizes)),
        "pooling": settings.get("pooling", "none"),
        "licence": "Apache-2.0",
    }
