from __future__ import annotations

from rich.console import Console

from castssl.evaluation.report import (
    COLUMNS,
    FEWEST,
    HIE,
    KNOWN,
    RULES,
    by_importance,
    fewest,
    legend,
    metric,
    table,
)


def text(*shown: object) -> str:
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*shown)
    return console.export_text()


def test_the_table_names_metrics_with_units_and_explains_each_in_one_line() -> None:
    results = {"knn": 0.4567, "match": 0.1, "object_iou_8": 0.5}
    lines = text(table(trained=results, chance={"knn": 0.125})).splitlines()
    row = next(line for line in lines if "kNN accuracy" in line)
    assert row.split() == ["kNN", "accuracy", "%", "45.7", "12.5"]
    assert "n/a" in next(line for line in lines if "view matching" in line)
    assert any("level" in line and "metric" in line for line in lines)
    legend = lines[next(i for i, line in enumerate(lines) if line.startswith("kNN accuracy:")) :]
    assert [line.partition(":")[0] for line in legend if line.strip()] == [
        "kNN accuracy",
        "view matching",
        "object IoU",
        "8 segments",
        "chance level",
    ]


def test_segments_have_a_table_with_a_row_for_each_baseline_in_80_columns() -> None:
    names = [f"{measure}_iou_{size}" for measure in ("object", "region", "part") for size in (64, 32, 16, 8)]
    values = dict(zip(names, (0.123 + 0.05 * i for i in range(12)), strict=True))
    shown = {"chance": {"knn": 0.125, **values}, "majority": {"knn": 0.2}, "pixels": {"knn": 0.3}}
    shown |= {"neighbors": values, "color": values, "trained": {"knn": 0.4, "region_iou_8": 0.5}}
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(**shown))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    start = next(i for i, line in enumerate(lines) if line.split() == ["object", "region", "part"])
    assert lines[start + 1].split() == ["segments", *["64", "32", "16", "8"] * 3]
    rows = [line.split() for line in lines[start + 3 : start + 7]]
    assert [row[0] for row in rows] == ["trained", "color", "neighbors", "chance"]
    assert rows[0] == ["trained", *["n/a"] * 7, "50.0", *["n/a"] * 4]
    assert rows[1][1:4] == ["12.3", "17.3", "22.3"]
    assert "…" not in "".join(lines)
    head = next(line for line in lines if line.split()[:1] == ["metric"])
    assert head.split() == ["metric", "unit", "trained", "pixels", "majority", "level"]


def test_the_level_that_is_not_trained_is_named_with_segments_only() -> None:
    assert "\n8 segments: GraphPool" in text(table(trained={"part_iou_16": 0.5, "part_iou_8": 0.5}))
    assert fewest(["knn", "part_iou_16", "part_iou_8"]) == {8}
    of_others = [metric("part_iou_8"), metric("part_iou_4")]
    assert legend(of_others, (), {2})[1:] == []
    assert legend(of_others, (), {4, 8})[1].startswith("4 or 8 segments:")
    assert "random weights" not in text(table(trained={"knn": 0.5, "miou": 0.5}))


def test_without_results_a_sentence_says_so() -> None:
    assert table(trained={}, chance={}) == "nothing was measured on held-out images"


def test_what_is_no_share_has_its_unit() -> None:
    assert metric("severity_hie_levels")[1:3] == ("mistake severity, HiE", "levels")
    assert metric("distance5_levels")[1:3] == ("hierarchical distance@5", "levels")
    assert metric("boundary_tolerance_px")[1:3] == ("boundary tolerance", "px")
    assert metric("embedding_rank_dims")[1:3] == ("effective rank, embeddings", "dims")
    assert metric("alignment_sq")[1:3] == ("alignment", "d²")
    assert metric("uniformity_nats")[1:3] == ("uniformity", "nats")
    assert metric("pooling_ms")[1:] == ("pooling ms", "ms", "")
    assert [metric(name).scale for name in ("fpa", "severity_levels", "pooling_ms")] == [100, 1, 1]
    assert "lower is better" in text(table(trained={"tice": 0.1, "severity_levels": 1.25}))
    assert "1.25" in text(table(trained={"severity_levels": 1.25}))
    assert metric("uniformity_nats").text(-0.001832) == "-0.002"
    assert [metric(name).text(-1e-5) for name in ("alignment_sq", "knn")] == ["0.000", "0.0"]


def test_what_the_data_decide_has_no_best_value() -> None:
    decided = ("unscored_classes", "boundary_tolerance_px", "area_of_object")
    assert all(metric(name).neutral for name in decided)
    assert not any(metric(name).neutral for name in ("boundary_f", "attention_on_object_0", "ece", "knn"))


def test_every_metric_has_a_title_and_a_legend() -> None:
    names = [f"{name}{suffix}" for name in ("fpa", "tice", "wap", "level0") for suffix in ("", "_hie")]
    others = ("severity_levels", "distance5_levels", "boundary_tolerance_px", "attention_gain_2_times")
    assert all(
        0 < len(metric(name).legend) <= 80 for name in (*others, "CF1", "CF1_top3", "unscored_classes")
    )
    assert metric("CF1_top3").title == "CF1, top 3"
    assert metric("unscored_classes").unit == "classes"
    assert metric("attention_gain_2_times")[1:3] == ("attention to area, stage 2", "times")
    boundary = ["boundary_f", "boundary_f_pooled", "boundary_f_any", "boundary_f_any_pooled", "boundary_iou"]
    names += [
        *boundary,
        *("mAP", "mAP_11point", "mAP_level1", "without_parent"),
        "knn",
        "match",
        "top1",
        "top5",
        "top1_balanced",
        "level1_balanced",
        "level1_balanced_hie",
        *("attention_on_object_0", "attention_of_others_1", "area_of_object"),
    ]
    names += [f"{name}_iou_16" for name in ("object", "region", "part")]
    for name in names:
        found = metric(name)
        assert 0 < len(found.legend) <= 80
        assert found.legend.startswith(found.title[:3]) or "top" in found.legend
        assert "_" not in found.title
        assert found.unit == "%"


def test_every_legend_fits_into_80_columns() -> None:
    examples = {r"(\d+)": "1", r"(\w+)": "chosen", "([OC](?:P|R|F1))": "CF1", "(1)": "1"}
    names = [pattern.replace("(confidence)", "confidence") for pattern in KNOWN]
    for group, example in examples.items():
        names = [name.replace(group, example) for name in names]
    metrics = [metric(name).legend for name in names]
    assert all(metrics)
    legends = [*metrics, *COLUMNS.values(), *RULES.values(), FEWEST, HIE]
    assert [legend for legend in legends if len(legend) > 80] == []


def test_titles_of_a_run_with_texts_are_whole_in_80_columns() -> None:
    names = (
        "fpa",
        "level0_balanced",
        "severity_levels",
        "distance1_levels",
        "risk_area_both",
        "answer_threshold",
    )
    columns = ("trained", "best", "untrained", "pixels", "texts", "majority", "chance")
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(**{column: dict.fromkeys(names, 0.5) for column in columns}))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert any(line.split()[:1] == ["hierarchical"] for line in lines)


def test_main_results_come_first_and_few_segments_before_many() -> None:
    names = ["x", "match", "object_iou_16", "top5", "fpa_hie", "object_iou_8", "knn", "top1", "a", "fpa"]
    expected = "fpa top1 knn object_iou_8 object_iou_16 match top5 fpa_hie x a"
    assert by_importance(names) == expected.split()


def test_answers_have_a_table_with_a_row_for_each_rule_in_80_columns() -> None:
    answers = {"accuracy": 0.876, "depth_levels": 1.526, "distance_levels": 0.612}
    answers |= {f"share_{depth}": share for depth, share in enumerate((0.0, 0.1, 0.25, 0.65))}
    found = {
        f"answer_{rule}_{name}": value
        for rule in ("consistency", "chosen")
        for name, value in answers.items()
    }
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(
        table(trained={"fpa": 0.5, "answer_threshold": 0.42, **found}, untrained={"fpa": 0.1, **found})
    )
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if line.strip().startswith(("trained: c", "untrained: c"))]
    assert [row[:2] for row in rows] == [
        [heading, rule] for heading in ("trained:", "untrained:") for rule in ("consistency", "chosen")
    ]
    assert rows[0][2:] == ["87.6", "1.53", "0.61", "0.0", "10.0", "25.0", "65.0"]
    title = next(i for i, line in enumerate(lines) if "Answers that stop" in line)
    assert not lines[title - 1].strip()
    start = next(i for i, line in enumerate(lines) if "accuracy" in line)
    assert lines[start].split() == ["accuracy", "depth", "distance", "0", "1", "2", "3"]
    assert lines[start + 1].split() == ["rule", "%", "levels", "levels", *["%"] * 4]
    assert not any("confidence:" in line for line in lines)
    threshold = next(line for line in lines if "chosen threshold" in line)
    assert threshold.split() == ["chosen", "threshold", "%", "42.0", "n/a"]


def test_names_of_answers_are_explained() -> None:
    names = [f"answer_chosen_{name}" for name in ("accuracy", "depth_levels", "distance_levels", "share_2")]
    for name in [*names, "answer_threshold", "fpa_known", "risk_area_both"]:
        assert 0 < len(metric(name).legend) <= 80
    assert metric("answer_chosen_depth_levels")[1:3] == ("answer depth, chosen", "levels")
    assert metric("answer_chosen_share_2")[1:3] == ("chosen, answers of 2 levels", "%")
    assert metric("risk_area_confidence").title == "AURC, confidence"
    assert metric("risk_area_both").title == "AURC, rule of chosen"
    assert metric("risk_area_both").lower_is_better
    assert not metric("answer_chosen_accuracy").lower_is_better
