import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from toptune.extract.backbone.model_name import parse_model_name
from toptune.extract.request.key import hub_commit, request_key
from toptune.extract.request.options import ExtractOptions
from toptune.options import options_of
from toptune.store import InputError


def key(name: str, **changes: Any) -> str | None:
    options = options_of(ExtractOptions, {"precision": "fp32"} | changes, call="extract")
    return request_key(
        parse_model_name(name),
        options.backbone,
        layers=options.layers,
        pooling=options.pooling,
        device=options.device,
        max_pixels=options.pixel_limit,
    )


def test_everything_asked_for_is_in_the_key(model_folder: Path, tmp_path: Path) -> None:
    name = f"local-dir:{model_folder}"
    (tmp_path / "w.pth").write_bytes(b"1")
    keys = [
        key(name),
        key(name, layers="all"),
        key(name, layers=[1]),
        key(name, layers=1),
        key(name, pooling="mean"),
        key(name, precision="bf16"),
        key(name, weights=tmp_path / "w.pth"),
        key(name, img_size=3),
        key(f"random:{name}"),
    ]
    assert len(set(keys)) == len(keys)
    assert key(name, device="cuda") == key(name)
    assert key(name, device="cuda", precision="auto") != key(name, precision="auto")
    before = key(name, weights=tmp_path / "w.pth")
    os.utime(tmp_path / "w.pth", ns=(1, 1))
    assert key(name, weights=tmp_path / "w.pth") != before
    with pytest.raises(InputError, match="JSON"):
        key(name, model_kwargs={"x": {1}})


def test_hub_models_are_known_by_their_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub_commit("lab/net") is None
    # What cannot be told without loading is never recognized: no key.
    assert key("hf-hub:lab/net") is None
    assert key("resnet18.a1_in1k") is None
    for repository in ("models--lab--net", "models--timm--resnet18.a1_in1k"):
        (tmp_path / repository / "refs").mkdir(parents=True)
        (tmp_path / repository / "refs" / "main").write_text("abc\n")
    (tmp_path / "models--lab--net" / "snapshots" / "def").mkdir(parents=True)
    assert hub_commit("lab/net") == "abc"
    assert hub_commit("lab/net@def") == "def"
    assert hub_commit("lab/net@gone") is None
    first = key("resnet18.a1_in1k")
    assert first is not None
    (tmp_path / "models--timm--resnet18.a1_in1k" / "refs" / "main").write_text("new")
    assert key("resnet18.a1_in1k") not in (None, first)


def test_a_name_without_tag_is_known_by_the_only_tag_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    def cache(repository: str, commit: str) -> None:
        refs = tmp_path / f"models--timm--{repository}" / "refs"
        refs.mkdir(parents=True, exist_ok=True)
        (refs / "main").write_text(commit)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    cache("resnet18d.ra2_in1k", "abc")
    assert key("resnet18") is None
    cache("resnet18.a1_in1k", "abc")
    first = key("resnet18")
    assert first is not None
    assert key("resnet18") == first
    cache("resnet18.a1_in1k", "def")
    assert key("resnet18") not in (None, first)
    # Two tags: only timm knows which one it takes.
    cache("resnet18.a2_in1k", "abc")
    assert key("resnet18") is None
    assert key("resnet18.a2_in1k") is not None
    # The same commit of another tag is another model.
    shutil.rmtree(tmp_path / "models--timm--resnet18.a1_in1k")
    assert key("resnet18") not in (None, first)
