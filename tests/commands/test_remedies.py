"""Messages of the command line name the remedy: the option at fault, the nearest name, all names."""

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from toptune.cli import toptune
from toptune.options import nearest
from toptune.store import FeatureStore, import_features

Run = Callable[..., tuple[int, str, str]]


def fill(store: Path, dataset: str = "pets", model: str = "mine", *, array: str = "last") -> None:
    """Put features of a data set with two classes into a store."""
    # Equal features would share one cache, whatever their model is called.
    values = np.random.default_rng(len(model)).normal(size=(40, 3)).astype(np.float32)
    labels = list("ab" * 20)
    import_features(FeatureStore.create(store), {array: values}, dataset=dataset, model=model, labels=labels)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fill(tmp_path / "store")
    return tmp_path / "store"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """List every command with the words that call it, groups included."""
    found: list[tuple[tuple[str, ...], click.Command]] = [(path, group)]
    for name, command in group.commands.items():
        inner = commands(command, (*path, name)) if isinstance(command, click.Group) else None
        found += [((*path, name), command)] if inner is None else inner
    return found


def twice(option: click.Option) -> list[str]:
    """Give an option two times, by its two names where it has two."""
    first, last = [*option.opts, *option.secondary_opts][0], [*option.opts, *option.secondary_opts][-1]
    return [first, last] if option.is_flag else [first, "1", last, "1"]


def test_no_option_may_be_given_twice() -> None:
    for path, command in commands(toptune):
        for option in command.params:
            if not isinstance(option, click.Option) or option.multiple or option.count or option.is_eager:
                continue
            shown = CliRunner().invoke(toptune, [*path, *twice(option)])
            assert shown.exit_code == 2, (path, option)
            assert "is given 2 times" in shown.output, (path, option)
            assert option.opts[0] in shown.output, (path, option)
            if option.is_flag:
                has_several = len({*option.opts, *option.secondary_opts}) > 1
                assert ("one of its names" in shown.output) == has_several, (path, option)


def test_options_of_several_values_are_given_several_times(run_cli: Run, store: Path, tmp_path: Path) -> None:
    code, _, error = run_cli(
        "train",
        "--store",
        store,
        "--update",
        tmp_path,
        "--forget",
        "a",
        "--forget",
        "b",
        "--out",
        tmp_path / "r",
    )
    assert code == 2
    assert "no RUN folder" in error


def test_a_repeated_list_says_how_several_values_are_written(run_cli: Run) -> None:
    _, _, error = run_cli("compare", "--heads", "ridge", "--heads", "knn")
    assert "several values with commas between them" in error


@pytest.mark.parametrize(
    ("given", "option", "meant"),
    [
        (["--kernel", "rbf"], "--kernel", "gaussian"),
        (["--head", "logreg"], "--head", "logistic"),
        (["--head", "knn5"], "--head", "knn"),
        (["--head", "random_forest"], "--head", "forest"),
        (["--preprocess", "standardize,zca"], "--preprocess", "whiten"),
        (["--device", "gpu"], "--device", "cuda"),
        (["--solver", "cholesky"], "--solver", "direct"),
        (["--val", "tset"], "--val", "test"),
        (["--dataset", "pet"], "--dataset", "pets"),
        (["--model", "mien"], "--model", "mine"),
        (["--layers", "lst"], "--layers", "last"),
        (["--head", "knn", "--params", '{"neighbors": 3}'], "--params", "n_neighbors"),
    ],
)
def test_a_misspelled_value_is_told_by_its_option_with_the_nearest_name(
    run_cli: Run, store: Path, tmp_path: Path, given: list[str], option: str, meant: str
) -> None:
    named = {name: value for name, value in (("--dataset", "pets"), ("--model", "mine")) if name not in given}
    words = [word for pair in named.items() for word in pair]
    code, _, error = run_cli("train", "--store", store, *words, "--out", tmp_path / "run", *given)
    assert code == 2
    assert error.startswith("Usage: toptune train")
    assert f"Invalid value for '{option}'" in error
    assert f"did you mean '{meant}'" in error
    assert not (tmp_path / "run").exists()


def test_the_american_spelling_of_a_step_is_understood(run_cli: Run, store: Path, tmp_path: Path) -> None:
    from toptune.train.preprocessing.spec import parse_preprocessing

    assert parse_preprocessing("standardize") == parse_preprocessing("standardise")


def test_a_store_that_is_something_else_is_told_as_what_it_is(run_cli: Run, store: Path) -> None:
    (store.parent / "run").mkdir()
    (store.parent / "run" / "run.json").write_text("{}")
    code, _, error = run_cli("store", "ls", "--store", store.parent / "run")
    assert code == 2
    assert "Invalid value for '--store'" in error
    assert "it is a RUN folder" in error
    assert f"give a store that is there: {store}" in error
    code, _, error = run_cli("store", "ls", "--store", store.parent / "stroe")
    assert "it does not exist" in error
    assert str(store) in error


def test_debug_shows_the_error_itself(store: Path, tmp_path: Path) -> None:
    words = ["--debug", "train", "--store", str(store), "--dataset", "pet", "--model", "mine", "--out", "x"]
    shown = CliRunner().invoke(toptune, words)
    assert isinstance(shown.exception, FileNotFoundError)


def test_imported_features_of_one_layer_are_trained_on_by_default(run_cli: Run, tmp_path: Path) -> None:
    fill(tmp_path / "store", array="embedding")
    words = (
        "train",
        "--store",
        tmp_path / "store",
        "--dataset",
        "pets",
        "--model",
        "mine",
        "--head",
        "ridge",
    )
    code, out, error = run_cli(*words, "--out", tmp_path / "run")
    assert code == 0, error
    assert "layers: embedding" in out
    code, _, error = run_cli(*words, "--layers", "last", "--out", tmp_path / "other")
    assert code == 2
    assert "choose one of embedding" in error


def test_names_that_can_only_be_one_are_left_out(run_cli: Run, store: Path, tmp_path: Path) -> None:
    words = ("--store", store, "--head", "ridge", "--out", tmp_path / "run")
    code, _, error = run_cli("train", *words)
    assert code == 0, error
    assert "taken from the store, which holds no other: --dataset pets and --model mine" in error
    fill(store, "birds", "mine")
    fill(store, "birds", "theirs")
    code, _, error = run_cli("train", *words)
    assert code == 2
    assert "holds 2 data sets; choose one with --dataset: birds, pets" in error
    code, _, error = run_cli(
        "store", "export", "--store", store, "--dataset", "birds", "-o", tmp_path / "out"
    )
    assert "choose one with --model: mine, theirs" in error
    code, _, error = run_cli("store", "export", "--store", store, "--model", "theirs", "-o", tmp_path / "out")
    assert code == 0, error
    assert "--dataset birds" in error
    code, _, error = run_cli("train", "--store", store, "--model", "thiers", "--out", tmp_path / "other")
    assert "did you mean 'theirs'?" in error


def test_an_empty_store_says_how_it_is_filled(run_cli: Run, tmp_path: Path) -> None:
    FeatureStore.create(tmp_path / "store")
    code, _, error = run_cli("train", "--store", tmp_path / "store", "--out", tmp_path / "run")
    assert code == 2
    assert "toptune extract adds some" in error


def test_a_model_is_removed_over_all_data_sets(run_cli: Run, store: Path) -> None:
    fill(store, "birds", "mine")
    fill(store, "birds", "theirs")
    rm = ("store", "rm", "--store", store, "--yes")
    code, out, error = run_cli(*rm, "--model", "mine")
    assert code == 0, error
    assert out.count("removed mine@") == 2
    assert [cache.model for cache in FeatureStore.open(store).caches()] == ["theirs"]
    for words, meant in ((("--model", "their"), "theirs"), (("--dataset", "bird", "--model", "x"), "birds")):
        code, _, error = run_cli(*rm, *words)
        assert code == 2
        assert "nothing to remove" in error
        assert f"did you mean '{meant}'" in error
        assert "extract" not in error
    assert "give --dataset, --model" in run_cli(*rm)[2]


def test_features_in_another_precision_are_told_with_the_command_that_makes_them(
    run_cli: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One machine has bf16 in hardware, and the other has not.
    store = ("--store", tmp_path / "s")
    model = ("--model", "random:test_vit", "--img-size", 32)
    for name, has_bf16 in (("photos", False), ("others", True)):
        monkeypatch.setattr("toptune.machine.devices.has_fast_bf16", lambda has_bf16=has_bf16: has_bf16)
        assert run_cli("extract", photos, "--dataset", name, *model, *store)[0] == 0
    about = ("--dataset", "photos", *model[:2])
    assert run_cli("train", *store, *about, "--head", "ridge", "--out", tmp_path / "run")[0] == 0
    code, _, err = run_cli("evaluate", tmp_path / "run", "--dataset", "others")
    assert code == 2
    assert "precision fp32 against bf16" in err
    remedy = (
        "the same toptune extract DATA --dataset others ... with --precision fp32 adds features like those"
    )
    assert remedy in " ".join(err.split())
    assert run_cli("extract", photos, "--dataset", "others", *model, *store, "--precision", "fp32")[0] == 0
    assert run_cli("evaluate", tmp_path / "run", "--dataset", "others")[0] == 0


def test_show_is_text(run_cli: Run, store: Path) -> None:
    code, out, _ = run_cli("store", "show", "--store", store, "--model", "mine")
    assert code == 0
    assert "dataset: pets" in out
    assert "{" not in out
    assert "did you mean 'mine'" in run_cli("store", "show", "--store", store, "--model", "mime")[2]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("store", "export", "--dataset", "pets", "--model", "mine", "-o", "x.csv"), "ends in .parquet"),
        (("store", "export", "--format", "parquet", "-o", "x/"), "ends in .parquet"),
        (("store", "export", "--format", "safetensors", "-o", "x.npz"), "ends in .safetensors"),
        (("train", "--out", "x.csv"), "leave it off: x"),
        (("compare", "--heads", "ridge", "--out", "x.json"), "leave it off: x"),
        (("layers-report", "--out", "x.html"), "leave it off: x"),
    ],
)
def test_a_file_is_never_made_a_folder(
    run_cli: Run,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    group = 2 if words[0] == "store" else 1
    code, _, error = run_cli(*words[:group], "--store", store, *words[group:])
    assert code == 2, error
    assert hint in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_an_export_takes_its_format_from_the_ending(run_cli: Run, store: Path, tmp_path: Path) -> None:
    code, _, error = run_cli("store", "export", "--store", store, "-o", tmp_path / "x.parquet")
    assert code == 0, error
    assert (tmp_path / "x.parquet").is_file()


def test_a_column_to_group_by_is_suggested(run_cli: Run, store: Path, tmp_path: Path) -> None:
    code, _, error = run_cli("train", "--store", store, "--group-by", "lable", "--out", tmp_path / "run")
    assert code == 2
    assert "Invalid value for '--group-by'" in error
    assert "did you mean 'label'" in error


def test_a_folder_is_a_model_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toptune.extract.backbone.model_name import parse_model_name
    from toptune.store import InputError, plain_model_name

    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds no config\.json: it is an empty folder") as refused:
        parse_model_name("models/mine")
    (tmp_path / "models" / "mine" / "config.json").write_text("{}")
    for path in ("models/mine", "./models/mine", str(tmp_path / "models" / "mine"), "models/mine/"):
        name = parse_model_name(path)
        assert (name.source, name.identifier) == ("local-dir", str(tmp_path / "models" / "mine"))
        assert name.plain == plain_model_name(path) == "mine"
    for path in ("./nowhere", "models/other", "/a/b", "../x/y"):
        with pytest.raises(InputError, match="check the path") as refused:
            parse_model_name(path)
        assert "hf-hub" not in str(refused.value)


def test_a_hidden_data_folder_says_how_to_name_it(run_cli: Run, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / ".photos" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / ".photos" / "a" / "1.png")
    words = ("extract", tmp_path / ".photos", "--model", "random:test_vit", "--store", tmp_path / "store")
    code, _, error = run_cli(*words)
    assert code == 2
    assert "begins with a dot; choose another name, with --dataset NAME" in error


def test_sums_that_cannot_be_kept_are_told(run_cli: Run, store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, error = run_cli("train", "--store", store, "--head", "knn", "--keep-sums", "--out", run)
    assert (code, "--keep-sums has no effect: sums are kept by head falkon" in error) == (0, True)
    code, _, error = run_cli("train", "--store", store, "--update", run, "--out", tmp_path / "next")
    assert (code, "and by ridge where the training images are more than the features" in error) == (2, True)


def test_other_accelerators_are_no_processor() -> None:
    assert nearest("tpu", ["cpu", "cuda"], most=1) == ["cuda"]


def test_folds_that_a_head_does_not_draw_are_told(run_cli: Run, store: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    code, _, error = run_cli("train", "--store", store, "--head", "forest", "--cv", "3", *out)
    assert (code, "--cv has no effect: head 'forest' is fitted without folds" in error) == (0, True), error


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("--head", "logistic", "--kernel", "gaussian"), "kernel has no meaning for head 'logistic'"),
        (("--head", "ridge", "--solver", "auto"), "solver has no meaning for head 'ridge'"),
        (("--head", "svm", "--centers", "1000"), "n_centers has no meaning for head 'svm'"),
    ],
)
def test_typed_options_that_a_head_does_not_take_are_refused_at_any_value(
    run_cli: Run, store: Path, tmp_path: Path, typed: tuple[str, ...], message: str
) -> None:
    """Whoever types a kernel believes in it, also where it is the default of another head."""
    code, _, error = run_cli("train", "--store", store, "--out", tmp_path / "run", *typed)
    assert (code, message in error) == (2, True), error
    assert not (tmp_path / "run").exists()
