"""Runs go to a hub and come back: safetensors, JSON and a card, nothing executable and nothing private."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_stand_in import Hub, local_hub
from shapes import save_shapes

import toptune
from toptune.extract import extract, open_source
from toptune.store import InputError
from toptune.train import train
from toptune.workflows import Classifier, push
from toptune.workflows.sharing.pushing import anonymous

MODEL = "resnet10t.toptune_glyphs"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharing")
    extract("digits", model=MODEL, store=folder / "store", layers="last", img_size=32)
    train(folder / "store", dataset="digits", model=MODEL, head="ridge", out=folder / "digits-run", cv=3)
    return folder / "digits-run"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with local_hub() as found:
        yield found


def test_a_run_is_sent_and_opened_again(run: Path, hub: Hub) -> None:
    done = push(run, "ada/digits", private=True, endpoint=hub.url)
    files = hub.files["ada/digits"]
    assert hub.private["ada/digits"]
    assert done.url.startswith(f"{hub.url}/ada/digits/commit/")
    assert set(done.files) <= set(files)
    assert {Path(name).suffix for name in files} - {""} <= {".safetensors", ".json", ".md"}
    assert "sums.safetensors" in done.left_out
    assert "rows.parquet" in done.left_out
    card = files["README.md"].decode()
    assert card.startswith("---\n")
    assert "library_name: toptune" in card
    assert 'Classifier.from_hub("ada/digits")' in card
    assert f"| accuracy | {json.loads(files['metrics.json'])['accuracy']:.4f} |" in card
    record = files["run.json"].decode()
    assert str(run.parent) not in record
    assert (json.loads(record)["created"]["who"], json.loads(record)["created"]["where"]) == ("", "")
    images = [open_source("digits").read(row) for row in range(5)]
    found = Classifier.from_hub("ada/digits", endpoint=hub.url).predict(images)
    expected = Classifier.load(run).predict(images)
    assert [each.probabilities for each in found] == [each.probabilities for each in expected]


def test_a_changed_file_is_noticed(run: Path, hub: Hub) -> None:
    push(run, "ada/changed", endpoint=hub.url)
    files = hub.files["ada/changed"]
    files["head.json"] = files["head.json"].replace(b'"ridge"', b'"rigde"')
    with pytest.raises(Exception, match=r"head\.json"):
        Classifier.from_hub("ada/changed", endpoint=hub.url)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the hub does not take the run ada/refused: it asks who you are; log in"),
        (403, "the hub does not take the run ada/refused: you may not do that there"),
        (404, "the hub does not take the run ada/refused: there is no such repository"),
    ],
)
def test_a_hub_that_refuses(run: Path, hub: Hub, status: int, message: str) -> None:
    hub.refusal = status
    with pytest.raises(InputError) as caught:
        push(run, "ada/refused", endpoint=hub.url)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value).split("\n[")[0]


def test_a_repository_that_is_not_there_or_no_run(hub: Hub, run: Path) -> None:
    with pytest.raises(
        InputError, match="the hub does not give the run ada/absent: there is no such repository"
    ):
        Classifier.from_hub("ada/absent", endpoint=hub.url)
    hub.files["ada/other"], hub.private["ada/other"] = {"config.json": b"{}"}, False
    with pytest.raises(InputError, match="run"):
        Classifier.from_hub("ada/other", endpoint=hub.url)
    for name in ("digits", "ada/di gits", "a/b/c"):
        with pytest.raises(InputError, match="is not of the form user/name"):
            push(run, name, endpoint=hub.url)


def test_a_card_says_what_the_run_has_learned_and_what_it_needs(tmp_path: Path, hub: Hub) -> None:
    photos = save_shapes(tmp_path / "photos", per_class=4)
    files = sorted(photos.rglob("*.png"))
    rows = [f"{file},{n / 2}" for n, file in enumerate(files)]
    (tmp_path / "sizes.csv").write_text("\n".join(["path,size", *rows]))
    # A copy of the embedded network, in a folder whose path is nobody's business.
    secret = tmp_path / "of ada/net"
    secret.mkdir(parents=True)
    stem = Path(toptune.__file__).parent / "extract/backbone" / MODEL
    (secret / "config.json").write_bytes(stem.with_name(f"{MODEL}.json").read_bytes())
    (secret / "model.safetensors").write_bytes(stem.with_name(f"{MODEL}.safetensors").read_bytes())
    name, store, out = f"local-dir:{secret}", tmp_path / "s", tmp_path / "run"
    extract(tmp_path / "sizes.csv", model=name, store=store, layers="last", img_size=32)
    train(store, dataset="sizes", model=name, head="ridge", task="regression", target="size", out=out, cv=3)
    push(out, "ada/sizes", endpoint=hub.url)
    files_there = hub.files["ada/sizes"]
    card = files_there["README.md"].decode()
    assert "A model that reads numbers off images" in card
    assert "Numbers (1): `size`" in card
    assert "| mean absolute error |" in card
    assert "pipeline_tag" not in card
    assert 'Classifier.from_hub("ada/sizes", model="PLACE")' in card
    assert "[0].targets)" in card
    assert str(tmp_path) not in b"".join(files_there.values()).decode("latin-1")


def test_paths_are_cut_wherever_a_record_has_them() -> None:
    given = {
        "a": "local-dir:/home/ada/my nets/x + torchhub:/home/ada/hub/tiny", "b": ["/home/ada/x", "/"],
        "c": "12 images/s from /home/ada/photos, see https://host.example/a/b and ada/shapes",
    }  # fmt: skip
    assert anonymous(given) == {
        "a": "local-dir:x + torchhub:tiny", "b": ["x", "/"],
        "c": "12 images/s from photos, see https://host.example/a/b and ada/shapes",
    }  # fmt: skip


def test_what_is_no_safetensors_stays(run: Path, tmp_path: Path, hub: Hub) -> None:
    train(run.parent / "store", dataset="digits", model=MODEL, head="knn", out=tmp_path / "run", cv=3)
    if not (tmp_path / "run/head.skops").is_file():
        (tmp_path / "run/head.skops").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"head\.skops', a head of scikit-learn, and only safetensors and JSON"
    ):
        push(tmp_path / "run", "ada/digits", endpoint=hub.url)
    assert hub.asked == []


def test_a_dry_run_asks_nothing(run: Path, hub: Hub, run_cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    code, out, _ = run_cli("push", str(run), "ada/digits", "--dry-run", "--json")
    assert code == 0
    assert "README.md" in json.loads(out)["files"]
    code, out, _ = run_cli("push", str(run), "ada/digits", "--dry-run")
    assert "would be sent to ada/digits: README.md" in out
    code, _, err = run_cli("push", str(run), "digits")
    assert (code, "is not of the form user/name" in err) == (2, True)
    assert hub.asked == []
