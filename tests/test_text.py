"""Label embeddings, against a BERT written out by hand and all refusals; nothing is downloaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from castssl import text, text_encoders
from castssl.errors import CastError, ConfigError, DataError, PluginError, UnknownPlugin
from castssl.text import LabelEmbeddings, embeddings, phrase, read

transformers: Any = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "tv", "monitor", "zebra", "air", "##plane", "a"]
NAMES = ("dog", "tvmonitor", "airplane", "Zebra")
PIECES = {"dog": [5], "tvmonitor": [6, 7], "airplane": [9, 10], "Zebra": [8]}
WIDTH, HEADS = 16, 2


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random BERT of two layers and its vocabulary."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "words.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(folder / "words.txt")).save_pretrained(folder)
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 24, "max_position_embeddings": 12}
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, num_attention_heads=HEADS, initializer_range=0.5, **sizes
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


def by_hand(folder: str, ids: list[int], segment: int) -> Tensor:
    """The final layer of a BERT (T, D), from its weights alone."""
    w = load_file(Path(folder) / "model.safetensors")

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-12).sqrt()
        return x * w[f"{name}.LayerNorm.weight"] + w[f"{name}.LayerNorm.bias"]

    tables = ("word", ids), ("position", list(range(len(ids)))), ("token_type", [segment] * len(ids))
    x = sum((w[f"embeddings.{name}_embeddings.weight"][rows] for name, rows in tables), torch.zeros(()))
    x = norm("embeddings", x)
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        q, k, v = (linear(f"{layer}.attention.self.{name}", x) for name in ("query", "key", "value"))
        mixed = []
        for part in torch.arange(WIDTH).chunk(HEADS):
            scores = q[:, part] @ k[:, part].T / len(part) ** 0.5
            mixed.append(scores.softmax(1) @ v[:, part])
        attended = linear(f"{layer}.attention.output.dense", torch.cat(mixed, 1))
        x = norm(f"{layer}.attention.output", x + attended)
        hidden = F.gelu(linear(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output", x + linear(f"{layer}.output.dense", hidden))
    return x


def test_bert_by_the_released_rule(bert: str) -> None:
    found = embeddings(NAMES, f"bert:{bert}")
    assert (found.names, found.model, found.prompt) == (NAMES, f"bert:{bert}", "{}")
    assert found.vectors.dtype == torch.float32
    assert not found.vectors.requires_grad
    for name, vector in zip(NAMES, found.vectors, strict=True):
        pieces = PIECES[name]
        expected = by_hand(bert, [2, *pieces], 1)[1 if len(pieces) == 1 else 0]
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)


def test_a_prompt_is_read_with_the_name(bert: str) -> None:
    found = embeddings(["dog"], f"bert:{bert}", prompt="a {}")
    torch.testing.assert_close(found.vectors[0], by_hand(bert, [2, 11, 5], 1)[0], atol=1e-5, rtol=1e-5)


def test_a_sentence_encoder_is_the_mean_over_all_tokens(bert: str) -> None:
    found = embeddings(NAMES, f"sentence:{bert}")
    for name, vector in zip(NAMES, found.vectors, strict=True):
        expected = by_hand(bert, [2, *PIECES[name], 3], 0).mean(0)
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_the_order_of_names_permutes_the_rows(bert: str, data: st.DataObject) -> None:
    source = data.draw(st.sampled_from([f"bert:{bert}", f"sentence:{bert}", "learned:8,seed=3"]))
    order = data.draw(st.permutations(range(len(NAMES))))
    found, permuted = embeddings(NAMES, source), embeddings([NAMES[row] for row in order], source)
    assert torch.equal(permuted.vectors, found.vectors[list(order)])
    assert torch.equal(found.of(permuted.names).vectors, permuted.vectors)


def test_other_names_get_embeddings_of_the_same_source(bert: str) -> None:
    found = embeddings(NAMES[:2], f"bert:{bert}", prompt="a {}")
    assert torch.equal(found.of(NAMES).vectors, embeddings(NAMES, f"bert:{bert}", prompt="a {}").vectors)
    with pytest.raises(ConfigError, match=r"learned:4 has no vector of airplane, Zebra; expected .* its 2"):
        embeddings(NAMES[:2], "learned:4").of(NAMES)


def test_vectors_of_two_models_are_not_mixed(bert: str, tmp_path: Path) -> None:
    tensors = load_file(Path(bert) / "model.safetensors")
    folder = copy_of(bert, tmp_path, tensors)
    found = embeddings(NAMES[:2], f"bert:{folder}")
    found.of(NAMES)
    copy_of(bert, tmp_path, {name: value.flip(0) for name, value in tensors.items()})
    with pytest.raises(DataError, match=r"another vector of 'dog' than before.* again, into a new file"):
        found.of(NAMES)
    assert torch.equal(found.of(["tvmonitor"]).vectors, found.vectors[[1]])
    wider = LabelEmbeddings(("dog",), torch.ones(1, 7), f"bert:{folder}")
    with pytest.raises(DataError, match="another vector of 'dog'"):
        wider.of(NAMES)


def test_the_random_state_stays(bert: str, tmp_path: Path) -> None:
    tensors = load_file(Path(bert) / "model.safetensors")
    # Without a pooler, the library draws one.
    folder = copy_of(
        bert, tmp_path, {name: x for name, x in tensors.items() if not name.startswith("pooler")}
    )
    states = []
    for source in (f"bert:{folder}", "learned:4"):
        torch.manual_seed(5)
        embeddings(NAMES, source)
        states.append(torch.rand(3))
    torch.manual_seed(5)
    assert torch.equal(torch.stack(states), torch.rand(3).expand(2, 3))


def test_learned_vectors_begin_as_the_seed_says() -> None:
    names = [f"class {number}" for number in range(200)]
    found = embeddings(names, "learned:50")
    assert found.learned
    assert found.vectors.shape == (200, 50)
    assert abs(found.vectors.mean()) < 0.05
    assert abs(found.vectors.std() - 1) < 0.05
    assert torch.equal(found.vectors, embeddings(names, "learned:50,seed=0").vectors)
    assert not torch.equal(found.vectors, embeddings(names, "learned:50,seed=1").vectors)


class Reader:
    """An encoder that reads names: lengths in place of meanings."""

    scale = torch.ones(())

    def zero_shot(self, names: list[str], templates: list[str]) -> Tensor:
        return torch.tensor([[len(templates[0].replace("{}", name)), len(name)] for name in names]).float()


def test_clip_reads_names_by_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(kind: str, name: str, config: Any) -> object:
        built.append(f"{kind} {name} {config.name}")
        return Reader() if "tiny" in config.name else object()

    monkeypatch.setattr(text_encoders, "build", build)
    found = embeddings(["tvmonitor", "dog"], "clip:tiny/weights")
    assert (built, found.prompt) == (["encoders clip clip:tiny/weights"], "a photo of a {}")
    assert found.vectors.tolist() == [[23, 10], [16, 3]]
    with pytest.raises(PluginError, match="a object cannot read class names"):
        embeddings(["dog"], "clip:other/weights")


def test_clip_without_its_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("castssl.registry._points", lambda kind: [])
    with pytest.raises(UnknownPlugin, match="castssl-baselines"):
        embeddings(["dog"], "clip:ViT-B-32/openai")


def matrix_file(folder: Path, kind: str, names: list[str] | None = None) -> tuple[Path, Tensor]:
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    path = folder / f"matrix.{kind}"
    if kind == "npy":
        np.save(path, values.double().numpy())
    else:
        save_file({"any name": values}, path)
    if names:
        path.with_suffix(".txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return path, values


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_rows_of_a_matrix_by_name(tmp_path: Path, kind: str) -> None:
    path, values = matrix_file(tmp_path, kind, ["dog", "café", "a b"])
    found = embeddings(["a b", "dog"], f"file:{path}")
    assert torch.equal(found.vectors, values[[2, 0]])
    assert found.names == ("a b", "dog")
    with pytest.raises(ConfigError, match=r"has no vector of cow; expected names of its 3, such as dog"):
        embeddings(["dog", "cow"], f"file:{path}")
    other = found.of(["dog", "café"])
    assert torch.equal(other.vectors, values[[0, 1]])
    path.with_suffix(".txt").unlink()
    given_names = embeddings(["x"], f"file:{path}", rows=["z", "x", "y"])
    assert torch.equal(given_names.vectors, values[[1]])
    with pytest.raises(DataError, match=r"no names of the 3 rows .*write them to .*matrix\.txt"):
        embeddings(["dog"], f"file:{path}")
    with pytest.raises(ConfigError, match="has no vector of z; expected names of its 1, such as x"):
        given_names.of(["z"])


def test_other_rows_of_a_file_that_changed_are_refused(tmp_path: Path) -> None:
    path, values = matrix_file(tmp_path, "npy", ["dog", "café", "a b"])
    found = embeddings(["dog"], f"file:{path}")
    np.save(path, (2 * values).numpy())
    with pytest.raises(DataError, match="another vector of 'dog' than before"):
        found.of(["a b"])
    path.unlink()
    assert torch.equal(found.of(["dog"]).vectors, values[:1])
    with pytest.raises(ConfigError, match="has no vector of a b"):
        found.of(["a b"])


def test_names_of_a_matrix_are_compared_with_those_given(tmp_path: Path) -> None:
    path, _ = matrix_file(tmp_path, "npy", ["a", "b", "c"])
    for rows, got, expected in (("acb", "b", "c"), ("ab", "c", None), ("abcd", None, "d")):
        with pytest.raises(DataError, match=f"differ .* got {got!r}, expected {expected!r}; leave"):
            embeddings(["a"], f"file:{path}", rows=list(rows))
    assert embeddings(["a"], f"file:{path}", rows=["a", "b", "c"]).names == ("a",)


def test_damaged_matrices_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "matrix.npy"
    rows = ["a", "b"]
    cases: list[tuple[Any, str]] = [
        (np.array([{}, {}]), "Python objects in dtype"),
        (np.ones((2, 3), dtype=np.int64), "not an array of floating-point numbers"),
        (np.ones(2), r"shape \(2,\) for 2 names"),
        (np.ones((3, 2)), r"shape \(3, 2\) for 2 names, expected \(2, D\)"),
        (np.full((2, 3), np.nan), "not finite"),
    ]
    for array, message in cases:
        np.save(path, array, allow_pickle=True)
        with pytest.raises(DataError, match=message):
            embeddings(["a"], f"file:{path}", rows=rows)
    with path.open("wb") as file:  # A header that asks for 4 TB.
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (2, 5 * 10**11)}
        )
    for content in (path.read_bytes(), b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as a matrix"):
            embeddings(["a"], f"file:{path}", rows=rows)
    with pytest.raises(DataError, match=r"cannot be read as a matrix .*No such file"):
        embeddings(["a"], f"file:{tmp_path / 'absent.npy'}", rows=rows)
    np.save(path, np.ones((2, 3)))
    with pytest.raises(DataError, match="several rows are named 'a'"):
        embeddings(["a"], f"file:{path}", rows=["a", "a"])
    path.with_suffix(".txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="not text in UTF-8"):
        embeddings(["a"], f"file:{path}")
    several = tmp_path / "two.safetensors"
    save_file({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, several)
    with pytest.raises(DataError, match=r"holds the tensors \['a', 'b'\], expected one"):
        embeddings(["a"], f"file:{several}", rows=rows)


def test_stored_embeddings_are_read_again(bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, source = tmp_path / "folder" / "labels.safetensors", f"bert:{bert}"
    first = embeddings(NAMES[:3], source, store=store)
    again = read(store)
    assert (again.names, again.model, again.prompt) == (first.names, source, "{}")
    assert torch.equal(again.vectors, first.vectors)
    assert torch.equal(embeddings(["airplane", "dog"], f"file:{store}").vectors, first.vectors[[2, 0]])
    before = store.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(text_encoders, "_library", lambda *_: pytest.fail("computed again"))
        found = embeddings(["airplane", "dog"], source, store=store)
    assert torch.equal(found.vectors, first.vectors[[2, 0]])
    assert store.read_bytes() == before
    assert torch.equal(embeddings(NAMES, source, store=store).vectors, embeddings(NAMES, source).vectors)
    assert read(store).names == NAMES
    with pytest.raises(ConfigError, match=r"holds .* of bert:.* expected learned:4 .*another path"):
        embeddings(NAMES, "learned:4", store=store)
    with pytest.raises(ConfigError, match=r"with the prompt '\{\}', expected .* with 'a \{\}'"):
        embeddings(NAMES, source, prompt="a {}", store=store)


@pytest.mark.parametrize("spelled", ["./matrix.npy", "matrix.npy", ".//matrix.npy"])
def test_a_store_of_a_file_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _, values = matrix_file(tmp_path, "npy", ["dog", "café", "a b"])
    for _ in range(2):
        found = embeddings(["a b"], f"file:{spelled}", store="store.safetensors")
        assert torch.equal(found.vectors, values[[2]])


def test_what_is_no_store_is_refused_and_kept(tmp_path: Path) -> None:
    store = tmp_path / "weights.safetensors"
    vectors = {"vectors": torch.ones(1, 2)}
    about = {"names": ["a"], "model": "learned:2", "prompt": "{}"}
    faults: list[dict[str, Any]] = [{"names": "a"}, {"names": [1]}, {"names": []}, {"model": 3}]
    for content in ("", "no JSON", *(json.dumps(about | fault) for fault in faults)):
        save_file(vectors, store, {text.METADATA: content} if content else None)
        before = store.read_bytes()
        with pytest.raises(DataError, match="holds no label embeddings that castssl wrote"):
            embeddings(["a"], "learned:2", store=store)
        assert store.read_bytes() == before
    store.write_bytes(b"short")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        read(store)
    store.unlink()
    store.symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        embeddings(["a"], "learned:2", store=store)
    assert store.is_symlink()


def test_a_missing_model_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True)
    store, absent = tmp_path / "labels.safetensors", "castssl/no-such-model"
    for kind in ("bert", "sentence"):
        with pytest.raises(DataError, match=f"{kind}:{absent} cannot be read .*hf download {absent}.*folder"):
            embeddings(NAMES, f"{kind}:{absent}", store=store)
    assert not list(tmp_path.iterdir())


def copy_of(bert: str, folder: Path, tensors: dict[str, Tensor] | None) -> str:
    """The folder of a BERT with other weights."""
    for path in Path(bert).iterdir():
        if path.name != "model.safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def test_pickled_weights_are_not_read(bert: str, tmp_path: Path) -> None:
    folder = copy_of(bert, tmp_path, None)
    torch.save(load_file(Path(bert) / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"cannot be read .*model\.safetensors"):
        embeddings(NAMES, f"bert:{folder}")


def test_missing_weights_are_refused_but_for_the_pooler(bert: str, tmp_path: Path) -> None:
    tensors = load_file(Path(bert) / "model.safetensors")
    without_pooler = {name: value for name, value in tensors.items() if not name.startswith("pooler.")}
    assert len(without_pooler) < len(tensors)
    folder = copy_of(bert, tmp_path, without_pooler)
    assert torch.equal(embeddings(NAMES, f"bert:{folder}").vectors, embeddings(NAMES, f"bert:{bert}").vectors)
    del without_pooler["encoder.layer.1.output.dense.bias"]
    save_file(without_pooler, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 1 of the weights of a BertModel, such as encoder\.layer\.1"):
        embeddings(NAMES, f"bert:{folder}")


def test_a_model_of_another_type_is_refused(bert: str, tmp_path: Path) -> None:
    copy_of(bert, tmp_path, None)
    config = transformers.T5Config(
        vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    transformers.T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"type t5, expected bert; write sentence:"):
        embeddings(NAMES, f"bert:{tmp_path}")
    with pytest.raises(ConfigError, match=r"got an encoder with a decoder.*write sentence-transformers:"):
        embeddings(NAMES, f"sentence:{tmp_path}")


def test_sentence_transformers_by_their_own_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    library: Any = ModuleType("sentence_transformers")

    class SentenceTransformer:
        def __init__(self, name: str, device: str, model_kwargs: dict[str, bool]) -> None:
            if name == "absent":
                raise OSError("no such model")
            assert model_kwargs == {"use_safetensors": True}

        def encode(self, texts: list[str], **options: object) -> Tensor:
            return torch.tensor([[len(name), 1] for name in texts], dtype=torch.float16)

    library.SentenceTransformer = SentenceTransformer
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    found = embeddings(["tvmonitor", "dog"], "sentence-transformers:some", prompt="a {}")
    assert found.vectors.tolist() == [[12, 1], [5, 1]]
    with pytest.raises(DataError, match=r"sentence-transformers:absent cannot be read .*hf download absent"):
        embeddings(["dog"], "sentence-transformers:absent")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("transformers", "bert:x"),
        ("transformers", "sentence:x"),
        ("sentence_transformers", "sentence-transformers:x"),
    ],
)
def test_without_the_library(monkeypatch: pytest.MonkeyPatch, module: str, source: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PluginError, match=f"need {module.replace('_', '-')}: .*install"):
        embeddings(NAMES, source)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("glove", {}, "no label embeddings 'glove'; expected bert:..., sentence:..."),
        ("bert:", {}, "no label embeddings 'bert:'"),
        ("learned:0", {}, "expected learned:DIM"),
        ("learned:4,seed=-1", {}, "expected learned:DIM"),
        ("clip:ViT-B-32", {}, "names no weights"),
        ("bert:x", {"prompt": "no place"}, "prompt: expected {} once"),
        ("learned:4", {"prompt": "a {}"}, "reads no text"),
        ("learned:4", {"rows": ["a"]}, "leave rows out"),
    ],
)
def test_malformed_sources_are_refused(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        embeddings(NAMES, source, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("names", [[], ["dog", " "], "dog"])
def test_names_that_are_none_are_refused(names: Any) -> None:
    with pytest.raises(ConfigError, match="label names: expected"):
        embeddings(names, "learned:4")


def test_vectors_have_a_row_for_each_name() -> None:
    with pytest.raises(DataError, match=r"shape \(1, 2\) for 2 names"):
        LabelEmbeddings(("a", "b"), torch.ones(1, 2), "file:x")
    with pytest.raises(DataError, match=r"torch\.int64"):
        LabelEmbeddings(("a",), torch.ones(1, 2, dtype=torch.int64), "file:x")
    assert issubclass(DataError, CastError)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eft, ...", "eft"),
        ("pottedplant", "potted plant"),
        ("red_fox", "red fox"),
        ("cock ,  hen", "cock"),
        ("707-320", "707-320"),
        (",", ","),
    ],
)
def test_a_name_becomes_part_of_a_sentence(name: str, expected: str) -> None:
    assert phrase(name) == expected


def test_words_are_a_bag() -> None:
    found = embeddings(
        ["red Beak", "beak, red!", "a blue wing", "red red beak"], "words:512", whole=True
    ).vectors
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(found[0], found[1])
    cosines = found @ found[0]
    assert abs(float(cosines[2])) < 0.2
    assert float(cosines[3]) == pytest.approx(3 / 10**0.5, abs=0.1)
    assert torch.equal(embeddings(["a blue wing"], "words:512", whole=True).vectors[0], found[2])
    with pytest.raises(ConfigError, match="expected words:DIM"):
        embeddings(["red"], "words:many")


def test_whole_texts_are_read_to_their_end(tmp_path: Path) -> None:
    texts, store = ["red, blue", "red, green"], tmp_path / "texts.safetensors"
    names = embeddings(texts, "words:64").vectors
    assert torch.equal(names[0], names[1])
    whole = embeddings(texts, "words:64", whole=True, store=store).vectors
    assert not torch.equal(whole[0], whole[1])
    more = embeddings([*texts, "red, pink"], "words:64", whole=True, store=store).vectors
    assert torch.equal(more[:2], whole)
    assert torch.equal(more[2:], embeddings(["red, pink"], "words:64", whole=True).vectors)
    with pytest.raises(ConfigError, match="for whole texts, expected words:64"):
        embeddings(texts, "words:64", store=store)
