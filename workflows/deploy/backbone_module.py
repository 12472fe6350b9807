"""`FeatureModule` holds the part of a backbone that some arrays need, as one torch module."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from toptune.extract.backbone.backbone import SAMPLE_SEED, Backbone
from toptune.extract.backbone.forward import ForwardPass, pooled


class FeatureModule(nn.Module):
    """Map normalized images ``(b, 3, h, w)`` to features ``(b, d)``, by the pass of `Backbone.forward`.

    ``torch.export`` can trace the module with any batch size. Where only timm's blocks are wanted, the pass
    ends with the last block that is needed. Otherwise the pass goes on to the end, but nothing behind the
    last hooked module has a part in the result, and the tracer drops it.

    Parameters
    ----------
    backbone : Backbone
        A backbone in float32, which is copied.
    arrays : sequence of (str, str)
        Names ``<tap>.<pooling>`` and the types, ``float16`` or ``float32``, to which the values are rounded
        before they are float32 again, as in the store.
    """

    def __init__(self, backbone: Backbone, arrays: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        wanted = backbone.arrays([name for name, _ in arrays])
        # The channels-last order of a backbone's weights is for speed here; files hold them in plain order.
        self.model = copy.deepcopy(backbone.model).to(memory_format=torch.contiguous_format)
        self._arrays = wanted
        self._dtypes = [getattr(torch, dtype) for _, dtype in arrays]
        # `ForwardPass` tries on noise whether blocks and hooks can share one pass. The noise is always the
        # same, so that two exports of one run take the same way.
        shape = 2, backbone.transform.n_channels, *backbone.transform.size
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(SAMPLE_SEED))
        with torch.inference_mode():
            self._forward = ForwardPass(self.model, tuple(sorted({each.tap.name for each in wanted})), noise)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = pooled(self._forward, images, self._arrays)
        # The head was fitted on stored values, so the file goes through their type as `predict` does.
        rounded = [
            outputs[array.name].to(dtype).to(torch.float32)
            for array, dtype in zip(self._arrays, self._dtypes, strict=True)
        ]
        return torch.cat(rounded, dim=1)
