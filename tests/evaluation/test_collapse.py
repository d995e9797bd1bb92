from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from castssl.data.views import TwoViews
from castssl.evaluation import collapse
from castssl.evaluation.collapse import Collapse
from castssl.evaluation.held_out import Evaluation, Subject, spread
from castssl.evaluation.knn import Knn
from castssl.evaluation.matching import Matching
from castssl.metrics.collapse import alignment, effective_rank, uniformity
from castssl.testing.processes import together
from tests.evaluation.toys import Colors, evaluation


def colors() -> Colors:
    torch.manual_seed(0)
    return Colors()


def measured(folder: str | Path, **options: object) -> Evaluation:
    matching = Matching(views=TwoViews(32), aligned=True)
    return evaluation(folder, Collapse(), matching, **options)


def double(feature: Tensor) -> Tensor:
    return torch.cat([feature, 2 * feature[:, :2], torch.ones_like(feature[:, :2])], 1)


def test_it_measures_features_and_embeddings(image_folder: Path) -> None:
    seen: list[Tensor] = []

    def kept(feature: Tensor) -> Tensor:
        seen.append(feature)
        return double(feature)

    found = measured(image_folder, batch_size=100)(Subject(colors(), embed=kept))
    center, first, second = sorted(seen, key=lambda rows: rows is not seen[0])
    assert len(center) == len(first) > 4
    assert found.pop("match") > 0
    assert found == pytest.approx(
        {
            "effective_rank_dims": effective_rank(center),
            "embedding_rank_dims": effective_rank(double(center)),
            "dead_dimensions": 0.0,
            "alignment_sq": alignment(double(first), double(second)),
            "uniformity_nats": uniformity(double(center)),
        }
    )
    alone = measured(image_folder)(Subject(colors()))
    assert alone["effective_rank_dims"] == alone["embedding_rank_dims"]
    assert alone["alignment_sq"] == pytest.approx(alignment(first, second))
    assert "alignment_sq" not in evaluation(image_folder, Matching(views=TwoViews(32)))(Subject(colors()))


def test_the_images_are_limited_and_matching_keeps_its_own(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def kept(feature: Tensor) -> Tensor:
        seen.append(feature)
        return double(feature)

    every = measured(image_folder, batch_size=100)(Subject(colors(), embed=kept))
    center = max(seen, key=lambda rows: rows is seen[0])
    monkeypatch.setattr(collapse, "IMAGES", 3)
    # Accuracy by neighbors needs the center views of all images.
    few = evaluation(image_folder, Collapse(), Knn(), Matching(views=TwoViews(32), aligned=True))(
        Subject(colors(), embed=double)
    )
    chosen = center[[*spread(len(center), 3)]]
    assert few["uniformity_nats"] == pytest.approx(uniformity(double(chosen)))
    assert few["embedding_rank_dims"] == pytest.approx(effective_rank(double(chosen)))
    assert few["alignment_sq"] == pytest.approx(every["alignment_sq"])


def test_a_run_that_collapses_is_warned_once(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated, toy = measured(image_folder), colors()
    constant = torch.ones(6)

    def after(share: float) -> str:
        found = evaluated(Subject(toy, embed=lambda feature: share * feature + constant))
        assert found["uniformity_nats"] <= 0
        return capsys.readouterr().err

    assert after(0.01) == "", "new weights are alike, too"
    assert after(1.0) == ""
    warning = after(0.001)
    assert "the run has collapsed: the deviation of its embeddings fell from 0." in warning
    assert "to 0.00" in warning
    assert after(0.001) == ""


def test_a_resumed_run_warns_as_one_that_was_not_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    before = Collapse()
    before._warn(0.5)
    resumed, again = Collapse(), Collapse()
    resumed.load_state_dict(before.state_dict())
    resumed._warn(0.01)
    assert "fell from 0.50 to 0.01" in capsys.readouterr().err, "its first evaluation is collapsed"
    again.load_state_dict(resumed.state_dict())
    again._warn(0.6)
    again._warn(0.01)
    assert capsys.readouterr().err == "", "there was a warning"


def test_deviations_of_other_evaluation_settings_are_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    before, resumed = Collapse(), Collapse(measured_with=" --val folder:b")
    before._warn(0.5)
    resumed._warn(0.02)  # New weights, which a run measures again with other settings.
    resumed.load_state_dict(before.state_dict())
    resumed._warn(0.015)
    assert capsys.readouterr().err == ""
    resumed._warn(0.005)
    assert "fell from 0.02 to 0.01" in capsys.readouterr().err


def split(rank: int, folder: str, expected: dict[str, float]) -> None:
    assert measured(folder)(Subject(colors(), embed=double)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.distributed
def test_two_processes_have_one_process_s_results(image_folder: Path) -> None:
    together(split, str(image_folder), measured(image_folder)(Subject(colors(), embed=double)))
