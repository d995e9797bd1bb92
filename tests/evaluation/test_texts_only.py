from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from castssl.datasets.demo.dataset import cache
from castssl.datasets.demo.texts import demo_texts
from castssl.datasets.free_grain import hide_fine
from castssl.datasets.image_texts import embed_texts
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.evaluation.texts_only import PENALTY, ridge, text_embeddings, texts_only

DATA = "demo:size=32,per_class=20"


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASTSSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def described(split: str, noise: float) -> Images:
    images = cast(Images, open_images(DATA, split=split))
    file = demo_texts(DATA, f"demo:{noise}", split)
    texts, about = embed_texts(images.source, images.rows.tolist(), file, "words:64", cache=cache())
    assert f"{len(images)} of {len(images)} images" in about
    return replace(images, texts=texts)


def test_the_fit_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 7, dtype=torch.float64, generator=generator)
    label = torch.randint(4, (50,), generator=generator)
    weight, bias = ridge(x, label, 5)
    expected = Ridge(alpha=PENALTY).fit(x.numpy(), np.eye(5)[label.numpy()])
    np.testing.assert_allclose(weight.T, expected.coef_, atol=1e-10)
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-10)
    assert not any(part.any() for part in ridge(x[:0], label[:0], 5))


def test_words_of_what_is_seen_tell_of_classes_and_noise_does_not() -> None:
    pure, noise = (texts_only(described("train", p), described("val", p)) for p in (0.0, 1.0))
    assert pure["level1"] > 0.3, "an eighth is chance"
    assert noise["level1"] < 0.3 < pure["level0"]
    assert set(pure) >= {"fpa", "tice", "level0", "level1", "wap"}


def test_hidden_labels_and_missing_texts_have_no_part() -> None:
    train, held_out = described("train", 0.0), described("val", 0.0)
    hidden = hide_fine(train, 0.8, seed=0)
    fine = hidden.targets[:, 1] >= 0
    few = replace(hidden, rows=hidden.rows[fine.numpy()], targets=hidden.targets[fine])
    found = texts_only(hidden, held_out)
    assert found["level1"] == texts_only(few, held_out)["level1"]
    assert found["level0"] == texts_only(train, held_out)["level0"]
    assert train.texts is not None
    first = train.texts.row.clone()
    first[torch.as_tensor(train.rows[0])] = -1
    without = replace(train, texts=train.texts._replace(row=first))
    assert not text_embeddings(without)[0].any()
    kept = replace(train, rows=train.rows[1:], targets=train.targets[1:])
    assert texts_only(without, held_out) == texts_only(kept, held_out)
    with pytest.raises(ValueError, match="expected images with texts"):
        texts_only(replace(train, texts=None), held_out)
