"""Features of images that no store knows: the same as those that an extraction stores."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from toptune.extract import load_backbone, open_source
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.pipeline.features_of import features_of
from toptune.store import FeatureCache

Make = Callable[..., Path]
Stored = Callable[..., FeatureCache]
LAST = "last.none"


@pytest.fixture
def backbone(model_folder: Path) -> Backbone:
    return load_backbone(f"local-dir:{model_folder}", precision="fp32", fold=True, decode="fast")


@pytest.mark.parametrize("threads", [1, 3])
def test_features_are_those_that_an_extraction_stores(
    make_folder: Make, stored: Stored, backbone: Backbone, threads: int
) -> None:
    data = make_folder(30)
    cache = stored(data, layers=[-1, "last"], dtype="float32", precision="fp32")
    names = [spec.name for spec in cache.arrays()]
    torch.set_num_threads(threads)
    batches = [*features_of(open_source(data), 30, [(backbone, backbone.arrays(names))], batch_size=4)]
    assert [len(batch.rows) for batch in batches] == [4] * 7 + [2]
    assert np.concatenate([batch.rows for batch in batches]).tolist() == list(range(30))
    found = np.concatenate(
        [np.concatenate([batch.values[0][name] for name in names], axis=1) for batch in batches]
    )
    assert np.array_equal(found, cache.blocks(names).take(np.arange(30)))


def test_images_that_cannot_be_used_are_named_and_left_out(make_folder: Make, backbone: Backbone) -> None:
    data = make_folder(10)
    for name in ("cat/002.png", "dog/001.png", "dog/003.png", "dog/005.png", "dog/007.png", "dog/009.png"):
        (data / name).write_bytes(b"no image")
    source = open_source(data)
    batches = [*features_of(source, 10, [(backbone, backbone.resolve("last"))], batch_size=5)]
    assert [batch.rows.tolist() for batch in batches] == [[0, 2, 3, 4], []]
    assert [sorted(batch.failed) for batch in batches] == [[1], [5, 6, 7, 8, 9]]
    assert len(batches[0].values[0][LAST]) == 4
    assert batches[1].values == ({},)
    assert "not an image" in batches[0].failed[1]


def test_a_batch_that_does_not_fit_is_computed_in_parts(
    make_folder: Make, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, arrays, plain = open_source(make_folder(8)), backbone.resolve("last"), Backbone.forward
    (whole,) = features_of(source, 8, [(backbone, arrays)], batch_size=8)

    def small(self: Backbone, batch: torch.Tensor, *rest: object) -> dict[str, torch.Tensor]:
        if len(batch) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Backbone, "forward", small)
    (halved,) = features_of(source, 8, [(backbone, arrays)], batch_size=8)
    np.testing.assert_allclose(halved.values[0][LAST], whole.values[0][LAST], rtol=1e-5, atol=1e-6)
    assert "8 images at once do not fit" in caplog.text


def test_no_images_give_no_batch(make_folder: Make, backbone: Backbone) -> None:
    assert [*features_of(open_source(make_folder(2)), 0, [(backbone, backbone.resolve("last"))])] == []
