from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from toptune.extract import load_backbone
from toptune.extract.backbone.folding import fold_batch_norms
from toptune.store import InputError, Recipe


def seasoned(name: str) -> Any:
    """Build a model whose batch norms do something, as after training."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "regnetx_002", "densenet121"])
def test_a_folded_model_computes_the_same_with_fewer_norms(name: str) -> None:
    model = seasoned(name)
    n_norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    folded, names = fold_batch_norms(model, (3, 64, 64))
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert len(names) > 0.4 * n_norms
    assert left == n_norms - len(names)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == n_norms
    batch = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        exact, found = model(batch), folded(batch)
    assert float((found - exact).norm()) < 1e-5 * float(exact.norm())


def test_a_model_without_norms_is_left_alone() -> None:
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=32).eval()
    assert fold_batch_norms(model, (3, 32, 32)) == (model, [])


class _Twice(nn.Module):
    """Reads the convolution's output both through the norm and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        between = self.conv(batch)
        pooled: torch.Tensor = (self.norm(between) + between).mean((2, 3))
        return pooled


def test_what_something_else_reads_is_not_folded() -> None:
    torch.manual_seed(0)
    model = _Twice().eval()
    nn.init.constant_(model.norm.weight, 3.0)
    assert fold_batch_norms(model, (3, 8, 8)) == (model, [])


def test_recipes_tell_folded_from_plain_and_old_texts_stay(model_folder: Path) -> None:
    plain, folded = (load_backbone(f"local-dir:{model_folder}", fold=fold) for fold in (False, True))
    assert "forward" not in plain.recipe.to_json()
    assert folded.recipe.forward == "folded-1"
    assert plain.recipe.weights == folded.recipe.weights
    assert plain.recipe != folded.recipe
    assert Recipe.from_json(folded.recipe.to_json()) == folded.recipe
    assert Recipe.from_json(plain.recipe.to_json()) == plain.recipe


def test_a_folded_convolution_is_no_tap(model_folder: Path) -> None:
    folded = load_backbone(f"local-dir:{model_folder}", fold=True)
    name = min(folded.folded)
    with pytest.raises(InputError, match=f"{name}.*--no-fold"):
        folded.resolve(name)
    assert load_backbone(f"local-dir:{model_folder}").resolve(name)[0].tap.name == name
