"""`FeatureModule`: the backbone's own features, rounded as the store rounds them, for any batch size."""

import numpy as np
import pytest
import torch
from shapes import MODEL

from toptune.extract import Backbone, load_backbone
from toptune.workflows.deploy.backbone_module import FeatureModule

CASES = [
    (MODEL, ["layer1.mean", "layer2.grid2", "last.none"], "float16"),
    (MODEL, ["layer2.max"], "float32"),
    ("random:test_vit", ["blocks.0.mean", "blocks.1.cls", "last.none"], "float16"),
    ("random:test_vit", ["blocks.0.mlp.fc1.mean"], "float32"),
    ("random:test_efficientnet", ["blocks.1.flatten", "blocks.2.grid2"], "float32"),
]


def rounded(backbone: Backbone, batch: torch.Tensor, names: list[str], dtype: str) -> np.ndarray:
    outputs = backbone.forward(batch, names)
    columns = [outputs[name].numpy().astype(dtype) for name in names]
    return np.concatenate(columns, axis=1, dtype=np.float32)


@pytest.mark.parametrize(("model", "names", "dtype"), CASES)
def test_features_are_those_of_the_backbone_at_any_batch_size(
    model: str, names: list[str], dtype: str
) -> None:
    backbone = load_backbone(model, fold=True)
    module = FeatureModule(backbone, [(name, dtype) for name in names]).eval()
    size = backbone.transform.size
    program = torch.export.export(
        module, (torch.zeros(2, 3, *size),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    traced = program.module()
    generator = torch.Generator().manual_seed(1)
    for n in (1, 5):
        batch = torch.randn(n, 3, *size, generator=generator)
        expected = rounded(backbone, batch, names, dtype)
        # Plain order of the weights instead of channels-last: a last bit of float16 may differ.
        np.testing.assert_allclose(module(batch).numpy(), expected, rtol=2e-3, atol=1e-3)
        np.testing.assert_allclose(traced(batch).numpy(), expected, rtol=2e-3, atol=1e-3)
