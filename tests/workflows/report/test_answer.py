"""The answer of a report: the best setting, what cannot be told apart from it, and the cheapest of these."""

from pathlib import Path

import pytest
from made_runs import make_run
from scipy import stats
from self_contained import check_self_contained

from toptune.workflows import write_report
from toptune.workflows.report.drawing import make_legend
from toptune.workflows.report.figures import draw_overview
from toptune.workflows.report.pairs import Answer, find_answers
from toptune.workflows.report.runs import read_runs
from toptune.workflows.report.settings import make_settings, methods_of


def answers(folder: Path) -> list[Answer]:
    settings, _ = make_settings(read_runs([folder], progress=lambda _done, _total: None))
    return find_answers(settings)


def test_one_seed_is_compared_image_by_image(tmp_path: Path) -> None:
    make_run(tmp_path / "falkon", head="falkon", wrong=2, n_test=100, seconds=30)
    make_run(tmp_path / "ridge", head="ridge", wrong=7, n_test=100, seconds=3)
    make_run(tmp_path / "knn", head="knn", wrong=20, n_test=100, seconds=1)
    (answer,) = answers(tmp_path)
    assert answer.best.method == "falkon"
    # Five images were lost and none gained: p is 2 / 2^5 = 0.0625; of 18 images it is far below.
    assert stats.binomtest(0, 5).pvalue == pytest.approx(0.0625)
    assert [each.method for each in answer.alike] == ["ridge"]
    assert answer.apart == 1
    assert answer.cheapest.method == "ridge"
    assert not answer.has_extraction


def test_the_cheapest_counts_the_extraction_where_all_know_it(tmp_path: Path) -> None:
    make_run(tmp_path / "a", model="large", wrong=2, n_test=50, seconds=1, costs={"extract_seconds": 100.0})
    make_run(tmp_path / "b", model="small", wrong=3, n_test=50, seconds=2, costs={"extract_seconds": 10.0})
    make_run(tmp_path / "c", model="small", wrong=3, n_test=50, seconds=50, kind="finetune")
    (answer,) = answers(tmp_path)
    assert (answer.best.model, answer.cheapest.model, answer.has_extraction) == ("large", "small", True)
    assert answer.seconds(answer.cheapest) == 12
    text = report_of(tmp_path)
    assert "Cheapest of these: ridge on small , 94.00 %: 12 s in place of 101 s, extraction included." in text
    make_run(tmp_path / "d", model="middle", wrong=4, n_test=50, seconds=3)
    (answer,) = answers(tmp_path)
    assert (answer.has_extraction, answer.cheapest.model) == (False, "large")


def report_of(folder: Path) -> str:
    out = folder.parent / f"{folder.name}.html"
    write_report([folder], out=out, overwrite=True)
    return check_self_contained(out.read_text()).text


def test_seeds_that_drew_their_images_are_compared_as_repetitions(tmp_path: Path) -> None:
    for seed in range(4):
        make_run(tmp_path / f"a{seed}", seed=seed, head="falkon", wrong=1 + seed % 2, n_test=100)
        make_run(tmp_path / f"b{seed}", seed=seed, head="ridge", wrong=12 + 2 * (seed % 2), n_test=100)
    (answer,) = answers(tmp_path)
    assert (answer.best.method, answer.alike, answer.apart) == ("falkon", (), 1)
    assert "The other setting is less accurate." in report_of(tmp_path)


def test_without_predictions_the_numbers_are_compared(tmp_path: Path) -> None:
    for name, wrong in (("falkon", 1), ("ridge", 3), ("knn", 30)):
        run = make_run(tmp_path / name, head=name, wrong=wrong, n_test=100)
        (run / "predictions.parquet").unlink()
    (answer,) = answers(tmp_path)
    assert [each.method for each in answer.alike] == ["ridge"]


def test_a_setting_alone_is_said_to_be_alone(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/pets", wrong=1)
    make_run(tmp_path / "runs/cells", dataset="cells", n_test=0, wrong=0)
    text = report_of(tmp_path / "runs")
    assert "The best setting" in text
    assert "No other setting was run on this data set." in text
    assert [answer.dataset for answer in answers(tmp_path / "runs")] == ["pets"]


def test_a_report_without_test_images_has_no_answer(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/cells", dataset="cells", n_test=0, wrong=0)
    assert "The best setting" not in report_of(tmp_path / "runs")


def test_many_settings_are_cut_and_told(tmp_path: Path) -> None:
    for number in range(70):
        make_run(tmp_path / f"runs/{number}", shots=number + 1, wrong=number % 7, n_test=20)
    settings, _ = make_settings(read_runs([tmp_path / "runs"], progress=lambda _done, _total: None))
    drawing, left_out = draw_overview(find_answers(settings), settings, make_legend(methods_of(settings)))
    assert left_out == 10
    assert drawing is not None
    assert drawing.count("<title>") == 60
