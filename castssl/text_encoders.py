"""Text encoders of label embeddings: a model's name, texts and a prompt to a vector for each text.

Weights are read from safetensors only, and no code of a repository runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from castssl.encoder_config import plugin_config
from castssl.errors import ConfigError, DataError, PluginError
from castssl.installer import install
from castssl.registry import build


@runtime_checkable
class ReadsNames(Protocol):
    """What zero-shot classification asks of an encoder beside :class:`castssl.contracts.Encoder`.

    The class token (B, 1, D) of its last stage is the image's vector in a space where texts have theirs.
    """

    @property
    def scale(self) -> Tensor:
        """What cosine similarities are multiplied with to become logits: a scalar."""
        ...

    def zero_shot(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """A unit vector for each class name, over all templates: float32 (C, D)."""
        ...


def _bert(model: str, phrases: Sequence[str], prompt: str) -> Tensor:
    """The rule of HSVLT's released code (commit cd7c5ca): the final layer's vector of one token.

    The input is ``[CLS]`` and the word pieces, without ``[SEP]``, and all segment ids are 1.  The token is
    the word piece if there is one, otherwise ``[CLS]``.
    """
    tokenizer, network = _transformer("bert", model)
    if network.config.model_type != "bert":
        raise ConfigError(
            f"bert:{model}: got a model of type {network.config.model_type}, expected bert; write"
            f" sentence:{model} for the mean over its tokens"
        )
    vectors = []
    for text in phrases:
        pieces = tokenizer(prompt.replace("{}", text), add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[tokenizer.cls_token_id, *pieces]])
        last = network(input_ids=ids, token_type_ids=torch.ones_like(ids)).last_hidden_state
        vectors.append(last[0, 1 if len(pieces) == 1 else 0])
    return torch.stack(vectors)


def _sentence(model: str, phrases: Sequence[str], prompt: str) -> Tensor:
    """The mean of the final layer over all tokens, special tokens included, as sentence encoders do."""
    tokenizer, network = _transformer("sentence", model)
    if network.config.is_encoder_decoder:
        raise ConfigError(
            f"sentence:{model}: got an encoder with a decoder, expected an encoder alone; write"
            f" sentence-transformers:{model}"
        )
    texts = [prompt.replace("{}", text) for text in phrases]
    inputs = [tokenizer(text, truncation=True, return_tensors="pt") for text in texts]
    return torch.stack([network(**ids).last_hidden_state[0].mean(0) for ids in inputs])


def _sentence_transformers(model: str, phrases: Sequence[str], prompt: str) -> Tensor:
    library = _library("sentence_transformers", "sentence-transformers")
    try:
        network = library.SentenceTransformer(model, device="cpu", model_kwargs={"use_safetensors": True})
    except Exception as error:  # the library raises its own, the hub's and the system's
        raise DataError(_unreadable(f"sentence-transformers:{model}", model, error)) from error
    texts = [prompt.replace("{}", text) for text in phrases]
    vectors: Tensor = network.encode(texts, batch_size=1, convert_to_tensor=True, show_progress_bar=False)
    return vectors.clone()  # computed in inference mode


def _clip(model: str, phrases: Sequence[str], prompt: str) -> Tensor:
    encoder = build("encoders", "clip", plugin_config(f"clip:{model}"))
    if not isinstance(encoder, ReadsNames):
        raise PluginError(
            f"clip:{model}: a {type(encoder).__name__} cannot read class names; install castssl-baselines"
        )
    return encoder.zero_shot(phrases, [prompt]).cpu()


def _words(model: str, phrases: Sequence[str], prompt: str) -> Tensor:
    """The sum of a standard normal vector for each word, as a unit vector; it needs no weights.

    Cosines of texts are near those of their counts of words.  A text without a word is a vector of zeros.
    """
    texts = [re.findall(r"\w+", prompt.replace("{}", text).lower()) for text in phrases]
    vocabulary = {word: row for row, word in enumerate(sorted({word for text in texts for word in text}))}
    if not vocabulary:
        return torch.zeros(len(texts), int(model))
    vectors = standard_normal(list(vocabulary), int(model))
    sums = [vectors[[vocabulary[word] for word in text]].sum(0) for text in texts]
    return torch.nn.functional.normalize(torch.stack(sums), dim=1)


def standard_normal(names: Sequence[str], dim: int, seed: int = 0) -> Tensor:
    """Standard normal vectors (C, ``dim``); a row depends on its name and the seed alone."""
    seeds = (hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names)
    generators = (torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")) for digest in seeds)
    return torch.stack([torch.randn(dim, generator=generator) for generator in generators])


def _transformer(kind: str, model: str) -> tuple[Any, Any]:
    """Tokenizer and network of transformers, in evaluation mode; no weight may be missing."""
    transformers = _library("transformers", "transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        network, report = transformers.AutoModel.from_pretrained(
            model, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # the library raises its own, the hub's and the system's
        raise DataError(_unreadable(f"{kind}:{model}", model, error)) from error
    # The library draws missing weights at random.  The pooler is not used here.
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
        raise DataError(
            f"{kind}:{model} lacks {len(missing)} of the weights of a {type(network).__name__}, such as"
            f" {missing[0]}; take a model that was saved with transformers"
        )
    return tokenizer, network.eval()


def _unreadable(source: str, model: str, error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return (
        f"{source} cannot be read ({type(error).__name__}: {lines[0]}); expected a repository of the Hugging"
        " Face hub or a folder, with config.json, the tokenizer and model.safetensors.  Run"
        f" `hf download {model}` where there is a network, or give the path of a folder"
    )


def _library(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise PluginError(f"these label embeddings need {package}: {install(package)}") from error


ENCODERS: Mapping[str, Callable[[str, Sequence[str], str], Tensor]] = {
    "bert": _bert,
    "sentence": _sentence,
    "sentence-transformers": _sentence_transformers,
    "words": _words,
    "clip": _clip,
}
"""Sources that read text: a model's name, phrases and a prompt to vectors (C, D)."""
