"""Mistakes of a kernel head come with the training images that carried them."""

import shutil
from pathlib import Path

import numpy as np
from self_contained import check_self_contained

from toptune.store import FeatureStore, import_features
from toptune.train import train
from toptune.workflows import similar, write_report


def test_mistakes_of_a_kernel_head_name_the_images_that_carried_them(tmp_path: Path) -> None:
    codes = np.arange(60) % 3
    values = np.random.default_rng(0).normal(size=(60, 5)) + 1.5 * np.eye(3, 5)[codes]
    store = FeatureStore.create(tmp_path / "store")
    ids = [f"{row}.png" for row in range(60)]
    import_features(
        store,
        {"last": values.astype(np.float32)},
        dataset="pets",
        model="mine",
        labels=[f"class {code}" for code in codes],
        ids=ids,
        splits=["train"] * 40 + ["test"] * 20,
    )
    for head in ("falkon", "ridge"):
        train(store, dataset="pets", model="mine", head=head, out=tmp_path / "runs" / head)
    write_report([tmp_path / "runs" / "falkon"], out=tmp_path / "page.html")
    text = check_self_contained((tmp_path / "page.html").read_text()).text
    assert text.count("carried by") > 0
    mistaken = next(each for each in ids[40:] if f" {each} carried by" in text)
    (told,) = similar(run=tmp_path / "runs" / "falkon", ids=[mistaken], k=3).images
    expected = " ".join(f"{like.id} {like.label} {like.value:+.3f}" for like in told.found)
    assert f"{mistaken} carried by {expected}" in text
    # Scores of other heads are no sums over training images, and nothing is missed.
    write_report([tmp_path / "runs" / "ridge"], out=tmp_path / "ridge.html")
    text = check_self_contained((tmp_path / "ridge.html").read_text()).text
    assert "wrong predictions" in text
    assert "carried" not in text
    assert "not told" not in text
    shutil.rmtree(tmp_path / "store")
    write_report([tmp_path / "runs" / "falkon"], out=tmp_path / "gone.html")
    text = check_self_contained((tmp_path / "gone.html").read_text()).text
    assert "carried by" not in text
    assert "The training images behind mistakes are not told:" in text
