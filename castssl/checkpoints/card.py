"""Model cards: what an encoder is, what it costs, what it is for, and under which license it comes."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from castssl.contracts import Encoder
from castssl.encoder_config import EncoderConfig
from castssl.models.flops import account

CARD = """---
{{ card_data }}
---

# {{ model_name }}

{{ summary }}

| | |
| --- | --- |
| model | `{{ model }}`, {{ parameters }} parameters, {{ trained }} of them trained |
| file | {{ megabytes }} MB in float32 |
| GFLOPs | {{ gflops }} |
| image size | {{ image_size }} pixels, normalized with ImageNet's mean and standard deviation |
| superpixels | `{{ superpixels }}` |
| sizes | {{ sizes }} |
| blocks | {{ blocks }} |
| pooling | `{{ pooling }}` |
{% if details %}
{{ details }}
{% endif %}
## Use

```python
import castssl

encoder = {{ load }}
found = castssl.segment("photo.jpg", encoder)
labels, features = found.labels(-1), found.features(-1)  # of the coarsest stage
```

`encoder(view).stages[-1].cls` is the image's feature.

## Intended use

{{ use }}

## Limits

{{ limits }}

## Published numbers

{{ numbers }} has every number that the papers print, with the command for it and what has been made.

## License

castssl itself: Apache-2.0.  The weights: {{ licence }}.
"""
SUMMARY = """A [CAST](https://arxiv.org/abs/2210.00314) encoder, trained with castssl: a vision transformer
whose tokens are superpixels.  In one pass it gives a feature of the image and a segmentation from fine to
coarse."""
OTHER = "The encoder `{name}`, trained with castssl: it gives features of the image and of its own tokens."
"""The summary of an encoder of a plugin, as those of timm."""
USES = {
    "nano": "Demonstrations, tests, and data sets of at most 50,000 small images (`--preset small`). The"
    " papers have no model of this size.",
    "dense": "Semantic segmentation of images of about 512 pixels (`recipes/segment.py`, `finetune_voc.py`,"
    " `retrieve_voc.py`), with tokens at the resolution of the label map. It takes the weights of the model"
    " `..._seg` of its size.",
    "fused": "Pretraining without labels for segmentation (`recipes/moco_in1k.py`; COCO in CAST's Table 3a),"
    " and transfer to segmentation (`recipes/segment.py`).",
    "hier_vit_small": "H-CAST's baseline Hier-ViT (`recipes/hcast.py --method hier-vit`).",
    "tome_small": "The ToMe of CAST's Table 5a, with the pooling `tome` of castssl-clustering.",
    "vit": "The baselines of CAST's Tables 3a and 4, with the stem, the blocks and as many tokens as CAST.",
    "cast": "Features of images and segments from fine to coarse: pretraining without labels"
    " (`recipes/moco_in1k.py`) and with labels (`recipes/deit_in1k.py`), and recognition at all levels of a"
    " label tree (`recipes/hcast.py`).",
    "": "Features of images, beside those of castssl's own encoders.",
}
"""What models are for, by a part of their names or by what they are."""
_counted: dict[EncoderConfig, str] = {}


def intended_use(config: EncoderConfig) -> str:
    """What an encoder is for, in sentences: one of :data:`USES`."""
    if config.kind != "cast":
        return USES[""]
    if config.name in USES:
        return USES[config.name]
    if "nano" in config.name:
        return USES["nano"]
    if config.dense or config.fused:
        return USES["dense" if config.dense else "fused"]
    return USES["vit" if config.name.startswith("vit") else "cast"]


def limits(config: EncoderConfig) -> str:
    """What is known to go wrong, as a Markdown list."""
    found = []
    if config.kind == "cast" and not config.superpixels.startswith("grid"):
        found.append("Segments are sums of superpixels, which miss thin structures (CAST, appendix A.3).")
    if config.kind == "cast" and len(config.depths) > 1 and config.depths[-1] == 0 and not config.fused:
        found.append(
            "The coarsest segments come from a pooling that no loss reaches, as in the published models."
        )
    found.append("It reflects its training images. It has not been evaluated for decisions about people.")
    return "\n".join(f"- {sentence}" for sentence in found)


def gflops(encoder: Encoder) -> str:
    """Billions of multiply-adds for one image, without heads; an encoder that cannot be counted has none."""
    config = encoder.config
    if config not in _counted:
        try:
            macs = account(encoder, image_size=config.image_size, classes=()).macs
            _counted[config] = f"{macs / 1e9:.2f} (`castssl flops`), without heads"
        except Exception as error:  # Of a plugin: a card must not keep weights from being saved.
            _counted[config] = f"not counted ({type(error).__name__})"
    return _counted[config]


def make_card(encoder: Encoder, **fields: str) -> ModelCard:
    """The model card of an encoder.

    Args:
        encoder: any; it stays as it is.
        fields: values in place of the defaults: ``licence`` (Apache-2.0), ``details`` (Markdown),
            ``model_name``, ``repo_id`` (``USER/NAME``), ``summary``, ``numbers`` and ``load``, the expression
            that makes the encoder.
    """
    config, cast = encoder.config, encoder.config.kind == "cast"
    sizes = f"{', '.join(map(str, config.sizes))} tokens, fine to coarse"
    parameters = [p.numel() for p in encoder.parameters()]
    defaults: dict[str, Any] = {
        "model_name": config.name,
        "model": config.name,
        "parameters": f"{sum(parameters):,}",
        "trained": f"{sum(p.numel() for p in encoder.parameters() if p.requires_grad):,}",
        "megabytes": f"{4e-6 * sum(parameters):.1f}",
        "gflops": gflops(encoder),
        "image_size": config.image_size,
        "superpixels": config.superpixels if encoder.uses_superpixels else "none",
        "sizes": f"{sizes}; others work with the same weights" if cast else sizes,
        "blocks": f"{', '.join(map(str, config.depths))} of {config.dim} channels and {config.heads} heads"
        if cast
        else "those of the network",
        "pooling": config.pooling if cast else "none",
        "licence": "Apache-2.0",
        "summary": SUMMARY if cast else OTHER.format(name=config.name),
        "load": f'castssl.load_encoder("hf:{fields.get("repo_id", "USER/NAME")}")',
        "use": intended_use(config),
        "limits": limits(config),
        "numbers": "`docs/numbers.md` of castssl's repository",
    }
    data = ModelCardData(library_name="castssl", tags=["superpixels", "cast"] if cast else None)
    card: ModelCard = ModelCard.from_template(data, template_str=CARD, **{**defaults, **fields})
    return card
