"""Options of an extraction: checked when they are made, and misspelled ones named."""

from pathlib import Path

import pytest

from toptune.extract import extract, extract_models, load_backbone
from toptune.extract.backbone.spec import BackboneSpec
from toptune.extract.request.options import ExtractOptions
from toptune.options import flat_options, options_of
from toptune.store import InputError


def test_a_misspelled_option_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"extract has no option 'batchsize'; did you mean 'batch_size'\?"):
        extract("digits", model="random:test_vit", store=tmp_path, batchsize=3)  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"extract_models has no option 'lyers'; did you mean 'layers'\?"):
        extract_models("digits", models=["random:test_vit"], store=tmp_path, lyers=3)  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"load_backbone has no option 'imgsize'; did you mean 'img_size'\?"):
        load_backbone("random:test_vit", imgsize=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"batch_size": "large"}, "batch_size is large; it must be at least 1"),
        ({"batch_size": 10**12}, "batch_size is 1000000000000; it must be at least 1 and at most 1000000"),
        ({"workers": -1}, "workers is -1; it must be at least 1"),
        ({"workers": 1025}, "workers is 1025; it must be at least 1 and at most 1024"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown; choose one of auto, float16, float32"),
        ({"format": "npz"}, "format 'npz' is unknown; choose one of zarr, hdf5"),
        ({"time_limit": 0}, "time_limit is 0 seconds; it must be above 0"),
        ({"shard": (2, 2)}, "shard 2/2 does not exist"),
        ({"shard": (0, 2), "overwrite": True}, "run it once without"),
        ({"dask_options": {"jobs": 1}}, "give --dask slurm, pbs or lsf"),
        ({"precision": "bfloat16"}, "precision 'bfloat16' is unknown; did you mean 'bf16'"),
        ({"profile": True}, r"profile is True; give profile=extraction_profile\(\)"),
        ({"profile": False}, "profile is False; give"),
        ({"profile": "yes"}, "profile is 'yes'; give"),
        ({"crop_pct": 0}, "crop_pct is 0; it must be above 0 and at most 1"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        options_of(ExtractOptions, options, call="extract")


def test_options_of_the_backbone_lie_in_a_value_of_their_own_and_come_back() -> None:
    options = options_of(ExtractOptions, {"mean": [0.5], "layers": "all", "fold": False}, call="extract")
    assert options.backbone == BackboneSpec(mean=[0.5], fold=False)
    assert options_of(ExtractOptions, flat_options(options), call="extract") == options
    assert options.backbone.to_dict()["mean"] == [0.5]
    assert (options.share, options.pixel_limit) == ((0, 1), 178_956_970)
