"""The parts of fine-tuning: schedule, augmentation, what is trained, what is cached, what is chosen."""

import math
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from shapes import MODEL, SHAPES, save_shapes
from timm.data import create_transform
from tiny import draw, save_model
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from toptune.costs.phase_costs import PhaseCosts
from toptune.extract import load_backbone, open_source
from toptune.store import CorruptError, InputError, Manifest
from toptune.train.rows.options import RowOptions
from toptune.workflows import FineTuneOptions, finetune
from toptune.workflows.finetuning.augmentation import Augmentation
from toptune.workflows.finetuning.images import ImageLoader
from toptune.workflows.finetuning.learner import Learner, cosine_schedule, epoch_batches
from toptune.workflows.finetuning.progress import ProgressReport, finetune_progress
from toptune.workflows.finetuning.rate_search import Epoch, best_epoch, is_over, search_warnings
from toptune.workflows.finetuning.rows import TuningRows, draw_validation
from toptune.workflows.finetuning.task import make_task
from toptune.workflows.finetuning.trained_network import TrainedNetwork, make_network

CONFIG = {"input_size": (3, 32, 32), "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
NORM = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.mark.parametrize(("n_steps", "n_warmup"), [(20, 5), (7, 0), (3, 2)])
def test_learning_rates_follow_the_formula(n_steps: int, n_warmup: int) -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.3)
    schedule = cosine_schedule(optimizer, n_steps=n_steps, n_warmup=n_warmup)
    for u in range(1, n_steps + 1):
        schedule.step_update(u)
        part = (u - n_warmup) / (n_steps - n_warmup + 1)
        expected = 0.3 * (u / n_warmup if u < n_warmup else (1 + math.cos(math.pi * part)) / 2)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, abs=1e-12)
        assert optimizer.param_groups[0]["lr"] > 0


def test_augmentation_is_timms_own() -> None:
    ours = Augmentation(CONFIG | NORM, flips=True, least_scale=0.2)
    cropping = create_transform(
        **CONFIG, **NORM, is_training=True, color_jitter=None, hflip=0.0, scale=(0.2, 1.0)
    )
    image, n_flipped = draw(3, (90, 60)), 0
    for seed in range(40):
        random.seed(seed)
        expected = cropping(image).permute(1, 2, 0).mul(127.5).add(127.5).round().byte().numpy()
        found = ours(image, seed)
        is_flipped = np.array_equal(found, expected[:, ::-1]) and not np.array_equal(found, expected)
        assert is_flipped or np.array_equal(found, expected)
        n_flipped += is_flipped
    assert 10 < n_flipped < 30


def test_augmentation_depends_on_nothing_but_image_and_seed() -> None:
    augmentation = Augmentation(CONFIG | NORM, flips=True, least_scale=0.08)
    image = draw(1, (64, 48))
    random.seed(7)
    before = random.getstate()
    alone = [augmentation(image, seed) for seed in range(60)]
    assert random.getstate() == before
    with ThreadPoolExecutor(4) as pool:
        together = [*pool.map(lambda seed: augmentation(image, seed), range(60))]
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("size", [(4, 60), (300, 20), (1, 1)])
def test_augmentation_takes_any_shape(size: tuple[int, int]) -> None:
    augmentation = Augmentation(CONFIG | NORM, flips=False, least_scale=0.08)
    assert augmentation(draw(1, size), 5).shape == (32, 32, 3)


def network(depth: str, name: str = MODEL) -> TrainedNetwork:
    return make_network(load_backbone(name), n_classes=3, depth=depth, seed=1)


def trained(net: TrainedNetwork) -> set[str]:
    return {name for name, each in net.model.named_parameters() if each.requires_grad}


def test_depth_says_what_is_trained() -> None:
    full, last, head = network("full"), network("last:2"), network("head")
    assert trained(full) == {name for name, _ in full.model.named_parameters()}
    assert trained(head) == {"fc.weight", "fc.bias"}
    assert {name.split(".")[0] for name in trained(last)} == {"layer3", "layer4", "fc"}
    assert head.n_trained == 3 * 256 + 3
    assert last.n_parameters == full.n_parameters == full.n_trained
    last.train()
    modes = {name: module.training for name, module in last.model.named_modules()}
    assert modes["layer4.0.bn1"]
    assert not modes["layer2.0.bn1"]
    assert not modes["bn1"]


@pytest.mark.parametrize(
    ("name", "behind"),
    [
        ("random:test_vit", {"blocks.5", "norm", "head"}),
        ("random:test_efficientnet", {"blocks.4", "conv_head", "bn2", "classifier"}),
        ("random:test_resnet", {"layer4", "fc"}),
    ],
)
def test_last_block_of_other_families(name: str, behind: set[str]) -> None:
    parts = {".".join(each.split(".")[: 2 if each.startswith("blocks") else 1])
             for each in trained(network("last:1", name))}  # fmt: skip
    assert parts == behind


@pytest.mark.parametrize("depth", ["last:5", "last:99"])
def test_more_blocks_than_there_are_are_refused(depth: str) -> None:
    with pytest.raises(InputError, match=r"of 5 blocks of .* N may be up to 4; give full"):
        network(depth)


def test_the_classifiers_first_weights_follow_from_the_seed() -> None:
    nets = [make_network(load_backbone(MODEL), n_classes=3, depth="full", seed=seed) for seed in (1, 1, 2)]
    first, same, other = [net.model.fc.weight for net in nets]
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_network_refuses_anothers_state() -> None:
    state = network("head").state()
    with pytest.raises(CorruptError, match="other tensors"):
        network("last:1").restore(state)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return save_shapes(tmp_path / "photos")


def open_loader(images: Path, cache_bytes: int, workers: int = 2) -> ImageLoader:
    backbone = load_backbone(MODEL)
    augmentation = Augmentation(backbone.transform.config, flips=True, least_scale=0.3)
    source = open_source(images)
    return ImageLoader(source, backbone, augmentation, seed=3, workers=workers, cache_bytes=cache_bytes)


@pytest.mark.parametrize("cache_bytes", [0, 30_000, 10**9])
def test_images_are_the_same_from_memory_and_from_files(images: Path, cache_bytes: int) -> None:
    batches = [[0, 5, 9], [30, 2], [11]]
    with open_loader(images, 0, workers=1) as plain, open_loader(images, cache_bytes) as cached:
        assert cached.look_at(range(36), is_training=True, seen=lambda _n: None) == {}
        assert cached.cached_bytes <= cache_bytes
        assert (cached.cached_bytes > 0) == (cache_bytes > 0)
        for epoch in (0, 1):
            expected = [*plain.training_batches(batches, epoch=epoch)]
            for found, wanted in zip(cached.training_batches(batches, epoch=epoch), expected, strict=True):
                assert torch.equal(found, wanted)
        for found, rows in zip(cached.batches(batches), batches, strict=True):
            for pixels, row in zip(found, rows, strict=True):
                source, backbone = open_source(images), load_backbone(MODEL)
                expected_pixels = backbone.transform.pixels(backbone.decode(source.read(row)))
                np.testing.assert_array_equal(pixels.numpy(), expected_pixels)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fp32_trains_in_float32_whatever_the_process_has_chosen(
    precision: str, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32, convolutions and linear layers compute in float32, forwards and backwards."""
    found: list[str] = []

    def note(*_: object) -> None:
        found.append(torch.get_float32_matmul_precision())

    def backward(loss: torch.Tensor, inner: Callable[..., None] = torch.Tensor.backward) -> None:
        note()
        inner(loss)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    hook = register_module_forward_pre_hook(note)
    with open_loader(images, 0, workers=1) as loader:
        learner = Learner(
            network=network("full"), backbone=load_backbone(MODEL), loader=loader,
            targets=np.repeat(np.arange(3), 12), options=FineTuneOptions(epochs=1, batch_size=2),
            precision=precision,
        )  # fmt: skip
        learner.begin(1e-3, n_steps_per_epoch=1)
        torch.set_float32_matmul_precision("medium")
        try:
            learner.step(torch.zeros((2, 32, 32, 3), dtype=torch.uint8), np.array([0, 20]), 0)
            learner.score(np.array([0, 20]), seen=lambda _n: None)
        finally:
            hook.remove()
            torch.set_float32_matmul_precision("highest")
    assert len(found) > 20
    # What bf16 computes in is up to autocast.
    assert set(found) == {"highest" if precision == "fp32" else "medium"}


def test_epochs_differ_and_large_images_are_kept_small(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    draw(1, (400, 300)).save(tmp_path / "a" / "1.png")
    draw(2, (400, 300)).save(tmp_path / "b" / "1.png")
    with open_loader(tmp_path, 10**9) as loader:
        first, second = (next(loader.training_batches([[0, 1]], epoch=epoch)) for epoch in (0, 1))
        assert not torch.equal(first, second)
        assert loader.cached_bytes == 2 * 64 * 85 * 3  # the shorter edge at twice the input's 32


def test_batches_of_an_epoch_hold_every_row_once_and_are_even() -> None:
    rows = np.arange(100, 165)
    epochs = [epoch_batches(rows, 16, seed=0, epoch=epoch) for epoch in (0, 1)]
    for batches in epochs:
        assert sorted(np.concatenate(batches).tolist()) == rows.tolist()
        assert {len(batch) for batch in batches} == {13}
    assert not np.array_equal(epochs[0][0], epochs[1][0])


def manifest(n: int = 60, **extra: list[str]) -> Manifest:
    return Manifest.from_columns(
        ids=[f"{i:03}" for i in range(n)],
        labels=[SHAPES[i % 3] for i in range(n)],
        splits=[None] * n,
        sizes=[1] * n,
        extra=dict(extra) or None,
    )


def test_validation_rows_are_a_share_of_each_class_of_the_training_rows() -> None:
    whole, train = manifest(), np.arange(45)
    draws = [
        draw_validation(whole, train, groups=whole.ids, options=FineTuneOptions(rows=RowOptions(seed=seed)))
        for seed in (0, 0, 1)
    ]
    assert set(draws[0]) <= set(train)
    assert Counter(whole.labels[row] for row in draws[0]) == dict.fromkeys(SHAPES, 3)
    np.testing.assert_array_equal(draws[0], draws[1])
    assert draws[0].tolist() != draws[2].tolist()


def test_validation_keeps_groups_together() -> None:
    whole = manifest()
    groups = [str(i // 6) for i in range(60)]
    rows = draw_validation(whole, np.arange(60), groups=groups, options=FineTuneOptions())
    chosen = {groups[row] for row in rows}
    assert 0 < len(chosen) < 10
    assert sorted(rows) == [row for row in range(60) if groups[row] in chosen]


def test_too_few_rows_to_validate_on_are_refused() -> None:
    whole = manifest(6)
    with pytest.raises(InputError, match="none of the 6 training rows to validate on; raise"):
        draw_validation(whole, np.arange(6), groups=whole.ids, options=FineTuneOptions())


def epochs(*figures: tuple[float, float], trial: int = 0, rate: float = 1e-4) -> list[Epoch]:
    return [
        Epoch(trial=trial, learning_rate=rate, epoch=i + 1, train_loss=1.0,
              validation_accuracy=accuracy, validation_loss=loss)
        for i, (accuracy, loss) in enumerate(figures)
    ]  # fmt: skip


def test_the_best_epoch_is_by_accuracy_then_loss_then_the_earlier() -> None:
    first = epochs((0.8, 0.5), (0.9, 0.4), (0.9, 0.3), (0.9, 0.3), (0.85, 0.1))
    assert best_epoch(first) is first[2]
    second = epochs((0.9, 0.3), trial=1, rate=3e-4)
    assert best_epoch([*second, *first]) is first[2]
    better = epochs((0.9, 0.2), trial=1, rate=3e-4)
    assert best_epoch([*first, *better]) is better[0]
    diverged = Epoch(trial=0, learning_rate=1.0, epoch=1, train_loss=None)
    assert best_epoch([diverged]) is None
    assert is_over([diverged], FineTuneOptions())


def test_a_training_is_over_after_patience_epochs_without_a_better_one() -> None:
    options = FineTuneOptions(min_epochs=3, patience=2, epochs=8)
    done = epochs((0.5, 1.0), (0.6, 1.0), (0.6, 1.1), (0.6, 1.2), (0.9, 0.1))
    assert [is_over(done[:n], options) for n in range(6)] == [False, False, False, False, True, False]
    assert not is_over(done[:3], FineTuneOptions(min_epochs=5, patience=1))
    assert is_over(epochs(*[(0.5 + i / 100, 1.0) for i in range(8)]), options)


def test_the_edge_of_the_grid_and_of_the_epochs_is_reported() -> None:
    options = FineTuneOptions(learning_rates=(1e-4, 1e-3, 1e-2), epochs=3, warmup_epochs=0)
    done = epochs((0.5, 1.0), (0.6, 1.0), (0.7, 1.0), rate=1e-4)
    notes = search_warnings(done, done[2], options)
    assert len(notes) == 2
    assert "0.0001 is the smallest of the grid" in notes[0]
    assert "the last of 3" in notes[1]
    middle = epochs((0.9, 0.1), (0.5, 1), (0.5, 1), rate=1e-3)
    assert search_warnings(middle, middle[0], options) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": "last:0"}, "must be full, head, or last:N with N from 1"),
        ({"depth": "some"}, "depth is 'some'"),
        ({"optimizer": "lion"}, "one of adamw, sgd"),
        ({"augment": "mixup"}, "one of crop-flip, crop, none"),
        ({"precision": "fp16"}, "one of auto, bf16, fp32"),
        ({"learning_rates": []}, "give at least one"),
        ({"learning_rates": [0.0]}, "learning rate 0 is not above 0"),
        ({"learning_rates": [float("nan")]}, "learning rate nan"),
        (
            {"epochs": 2, "warmup_epochs": 2},
            "warmup_epochs is 2 of 2 epochs.*give --warmup-epochs 1 or fewer",
        ),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"epochs": 10**12}, "epochs is 1000000000000; it must be at least 1 and at most 1000000"),
        ({"workers": 10**5}, "workers is 100000; it must be at least 1 and at most 1024"),
        ({"patience": 2.5}, "patience is 2.5; it must be at least 1"),
        ({"weight_decay": -1.0}, "weight_decay is -1; it must be at least 0 and finite"),
        ({"label_smoothing": 1.0}, "at least 0 and below 1"),
        ({"validation_fraction": 0.5}, "at least 0 and below 0.5"),
        ({"validation_fraction": 0.0}, "nothing could choose among 2 learning rates"),
        ({"validation_fraction": 0.0, "learning_rates": [1e-4], "refit": True}, "how long to refit"),
        ({"crop_scale": 0.0}, "crop_scale is 0.0; it must be above 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FineTuneOptions(**options)


def test_the_default_warm_up_leaves_an_epoch_to_fall_in() -> None:
    warmups = [FineTuneOptions(epochs=epochs).n_warmup_epochs for epochs in (1, 2, 3, 40)]
    assert warmups == [0, 1, 2, 2]
    # An unfinished run that was begun when the default was always 2 goes on.
    assert FineTuneOptions().identity()["warmup_epochs"] == 2
    assert FineTuneOptions(epochs=5).identity() == FineTuneOptions(epochs=5, warmup_epochs=2).identity()


def test_options_that_change_no_number_are_not_part_of_the_identity() -> None:
    plain = FineTuneOptions()
    same = FineTuneOptions(
        rows=RowOptions(allow_failed=True), workers=3, cache_memory_bytes=1, max_failures=2,
        learning_rates=(3e-4, 1e-4),
    )  # fmt: skip
    assert plain.identity() == same.identity()
    assert plain.identity() != FineTuneOptions(patience=4).identity()
    with pytest.raises(InputError, match="finetune has no option 'pacience'; did you mean 'patience'"):
        finetune("digits", model="m", out="run", pacience=4)  # type: ignore[call-arg]


def test_pretrained_weights_are_never_replaced_by_random_ones(tmp_path: Path, images: Path) -> None:
    folder = save_model(tmp_path / "tiny.net", seed=1)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="weights"):
        make_task(
            TuningRows.of(images, FineTuneOptions()), model=f"local-dir:{folder}", options=FineTuneOptions()
        )


def test_weights_of_a_checkpoint_are_taken(tmp_path: Path, images: Path) -> None:
    folder = save_model(tmp_path / "tiny.net", seed=1)
    options = FineTuneOptions(weights=str(folder / "model.safetensors"), img_size=32)
    task = make_task(TuningRows.of(images, options), model="test_efficientnet", options=options)
    own = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    for name, value in task.backbone.model.state_dict().items():
        assert torch.equal(value, own[name])


def test_costs_add_up_over_sessions() -> None:
    first = PhaseCosts()
    with first.phase("train"):
        sum(range(10**5))
    first.count("train", 12)
    before = first.to_dict()
    second = PhaseCosts(before)
    with pytest.raises(KeyboardInterrupt), second.phase("train"):
        raise KeyboardInterrupt
    second.count("train", 5)
    after = second.to_dict()
    assert after["sessions"] == 2
    assert after["phases"]["train"]["images"] == 17
    for name in ("wall_seconds", "cpu_seconds"):
        assert after["phases"]["train"][name] >= before["phases"]["train"][name] > 0
    assert after["wall_seconds"] >= before["wall_seconds"] > 0
    assert after["peak_memory_bytes"] >= before["peak_memory_bytes"] > 10**7
    assert after["cpu_seconds"] >= before["cpu_seconds"] > 0
    assert after["energy_joules"] >= before["energy_joules"] > 0
    measured = {"source": "rapl", "estimate": False, "watts_per_core": None}
    assert before["energy"] in (measured, {"source": "model", "estimate": True, "watts_per_core": 10.0})
    estimated = before | {"energy": {"source": "model", "estimate": True, "watts_per_core": 10.0}}
    assert PhaseCosts(estimated).to_dict()["energy"]["estimate"]


def test_a_log_has_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now: Callable[[], float] = iter([0.0, 1.0, 61.0, 61.0, 62.0]).__next__
    monkeypatch.setattr("toptune.workflows.finetuning.progress.time.perf_counter", now)
    report = ProgressReport(
        doing="training", done=8, total=24, trial=1, trials=2, learning_rate=3e-4, epoch=3, epochs=40,
        best_accuracy=0.5,
    )  # fmt: skip
    with finetune_progress() as progress:
        for _ in range(3):
            progress(report)
    assert capsys.readouterr().err == (
        "training, learning rate 1 of 2 (0.0003), epoch 3 of 40, best validation accuracy 0.500, "
        "8 of 24 images\n"
    )
