"""`Backbone`: a frozen timm model with its evaluation transform, its taps and its identity."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import torch
from timm.data import resolve_data_config

from toptune.errors import InputError
from toptune.extract.backbone.batch_limit import BatchLimit
from toptune.extract.backbone.build import build_model
from toptune.extract.backbone.copies import CopyStreams
from toptune.extract.backbone.folding import FOLDED, fold_batch_norms
from toptune.extract.backbone.forward import Around, ForwardPass, find_blocks, inspect_taps, pooled
from toptune.extract.backbone.libraries.custom import Custom
from toptune.extract.backbone.model_name import parse_model_name
from toptune.extract.backbone.spec import BackboneArguments, BackboneSpec, check_transform
from toptune.extract.backbone.taps import LAST, Tap, TapArray, select_names, tap_arrays
from toptune.extract.backbone.transform import EvalTransform
from toptune.extract.backbone.upper_half import UPPER, split_upper, upper_arrays, upper_blocks
from toptune.extract.backbone.weights import weights_digest
from toptune.extract.images.decode import AUTO, NEW_FEATURES, decoding
from toptune.extract.images.kinds.band_image import AnyImage
from toptune.extract.images.kinds.reading import COLORS
from toptune.machine.device_memory import explained_out_of_memory
from toptune.machine.devices import resolve_device, resolve_precision
from toptune.machine.precision import fixed_algorithms, full_precision
from toptune.options import nearest, options_of
from toptune.store.features.recipe import ROUTES, Recipe

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Noise from a fixed seed serves to inspect taps, so that the same model gives the same taps in every process.
SAMPLE_SEED = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Backbone:
    """A model in eval mode, without gradients, that turns images into features.

    Make one with `load_backbone`.

    Attributes
    ----------
    name : str
        Name in the paths of the store: ``arch.tag``, or the last part of a folder or repository.
    given : str
        The name that `load_backbone` was given, with a folder as an absolute path.
    options : BackboneSpec
        How the backbone was loaded, with ``auto`` precision resolved and weights as an absolute path.
    recipe : Recipe
        Everything that decides the numbers.
    model : nn.Module
        timm's model, ``num_classes=0``.
    transform : EvalTransform
        RGB image to ``(3, h, w)`` tensor.
    device : torch.device
        Device that holds the model.
    folded : frozenset of str
        Convolutions that do the work of the batch norm after them, so that their own output is not computed.
    batch_limit : BatchLimit
        How many images fit the device's memory at once, as far as batches have shown.
    """

    name: str
    given: str
    options: BackboneSpec
    recipe: Recipe
    model: Any
    transform: EvalTransform
    device: torch.device
    folded: frozenset[str] = frozenset()
    batch_limit: BatchLimit = field(default_factory=BatchLimit, repr=False)
    _taps: dict[str, Tap] = field(default_factory=dict, repr=False)
    _passes: dict[tuple[str, ...], ForwardPass] = field(default_factory=dict, repr=False)

    @property
    def spec(self) -> dict[str, Any]:
        """JSON values with which ``load_backbone(**spec)`` loads the same backbone again."""
        return {"name": self.given, **self.options.to_dict()}

    @cached_property
    def copies(self) -> CopyStreams | None:
        """Streams of copies to the device and back, if the device is a CUDA device."""
        return CopyStreams(self.device) if self.device.type == "cuda" else None

    @cached_property
    def taps(self) -> list[Tap]:
        """All blocks that timm's index language counts, and ``last``."""
        return self._inspect([*find_blocks(self.model).names, LAST])

    def resolve(
        self, layers: str | int | Sequence[str | int] = UPPER, pooling: str | Sequence[str] | None = None
    ) -> list[TapArray]:
        """Turn ``--layers`` and ``--pooling`` into arrays; see `select_names` for the language.

        ``upper`` has poolings of its own (see `upper_arrays`) where no pooling is given.

        Raises
        ------
        InputError
            If a layer or pooling is unknown, they do not fit, or too many values would be left.
        """
        modules = [name for name, _ in self.model.named_modules() if name]
        indexed = find_blocks(self.model).names
        others, has_upper = split_upper(layers)
        names = select_names(others, indexed=indexed, modules=modules) if others else []
        if not has_upper:
            return tap_arrays(self._inspect(names), pooling)
        upper = upper_blocks(indexed)
        order = [*dict.fromkeys([*indexed, *modules, LAST])]
        taps = self._inspect([name for name in order if name in {*names, *upper, LAST}])
        if pooling is not None:
            return tap_arrays(taps, pooling)
        *blocks, last = self._inspect([*upper, LAST])
        arrays = [*tap_arrays([tap for tap in taps if tap.name in names], None), *upper_arrays(blocks, last)]
        unique = {array.name: array for array in arrays}
        return sorted(unique.values(), key=lambda array: order.index(array.tap.name))

    def arrays(self, names: Sequence[str]) -> list[TapArray]:
        """Find arrays by the names that the store has for them, ``<tap>.<pooling>``.

        Raises
        ------
        InputError
            If this backbone has no such tap, or the pooling does not fit it.
        """
        parts = [name.rpartition(".") for name in names]
        taps = self._inspect([tap for tap, _, _ in parts])
        arrays = [TapArray(tap, pooling) for tap, (_, _, pooling) in zip(taps, parts, strict=True)]
        for array in arrays:
            array.tap.dim(array.pooling)
        return arrays

    def decode(self, data: bytes) -> AnyImage:
        """Decode an image's file by the recipe's route; see `decoding`."""
        with decoding(data, self.transform.decoding) as decoded:
            return decoded.image

    def forward(
        self,
        batch: torch.Tensor,
        arrays: Sequence[str | TapArray],
        around: Around | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute arrays in one forward pass.

        Parameters
        ----------
        batch : Tensor (b, c, h, w)
            Images as `transform` gives them, stacked.
        arrays : sequence of str or TapArray
            Names ``<tap>.<pooling>``.
        around : callable, optional
            Makes a context that measures the poolings of a tap, from the number of images to count.

        Returns
        -------
        dict of str to Tensor (b, dim)
            float32, on the backbone's device.
        """
        known = [array for array in arrays if isinstance(array, TapArray)]
        wanted = known + self.arrays([array for array in arrays if isinstance(array, str)])
        taps = tuple(sorted({array.tap.name for array in wanted}))
        # cuDNN may choose another algorithm each time: two extractions of the same images would differ.
        fixed = fixed_algorithms() if self.device.type == "cuda" else nullcontext()
        with torch.inference_mode(), full_precision(), fixed:
            if taps not in self._passes:
                self._passes[taps] = ForwardPass(
                    self.model, taps, self._sample, is_compiled="compiled" in self.recipe.forward
                )
            batch = batch.to(self.device, self._dtype, memory_format=torch.channels_last)
            return pooled(self._passes[taps], batch, wanted, around)

    def leave_device(self) -> None:
        """Move the network to main memory, so that other processes have the memory of its device.

        The backbone must not compute afterwards.
        """
        self.model.to("cpu")
        self.__dict__.pop("_sample", None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _dtype(self) -> torch.dtype:
        return DTYPES[self.recipe.precision]

    @cached_property
    def _sample(self) -> torch.Tensor:
        shape = 2, self.transform.n_channels, *self.transform.size
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(SAMPLE_SEED))
        return noise.to(self.device, self._dtype, memory_format=torch.channels_last)

    def _inspect(self, names: Sequence[str]) -> list[Tap]:
        new = [name for name in dict.fromkeys(names) if name not in self._taps]
        known = {LAST, *find_blocks(self.model).names, *dict(self.model.named_modules())} if new else set()
        for name in new:
            if name not in known:
                near = nearest(name, known, most=1)
                raise InputError(
                    f"{self.name} has no layer {name!r}; "
                    + (f"did you mean {near[0]!r}? " if near else "")
                    + "`toptune layers MODEL` lists them",
                    option="layers",
                )
            if name in self.folded:
                raise InputError(
                    f"layer {name!r} is a convolution that the batch norm after it is folded into: its own "
                    "output is not computed; name the norm instead, or give --no-fold"
                )
        if new:
            try:
                with torch.inference_mode(), _explained(f"a pass of {self.name}", self.device):
                    self._taps.update((tap.name, tap) for tap in inspect_taps(self.model, new, self._sample))
            except InputError:
                raise
            except (RuntimeError, AssertionError, ValueError, IndexError) as error:
                height, width = self.transform.size
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise InputError(
                    f"{self.name} cannot run on {height} x {width} pixels in {self.recipe.precision}: "
                    f"{reason}; try another --img-size or --precision fp32"
                ) from error
        return [self._taps[name] for name in names]


def load_backbone(
    name: str | Custom,
    *,
    device: str = "cpu",
    pretrained: bool = True,
    expected: Recipe | None = None,
    **arguments: Unpack[BackboneArguments],
) -> Backbone:
    """Load a timm model, frozen, with its own evaluation transform.

    Parameters
    ----------
    name : str or Custom
        A network of one's own, or a name: as timm names it, ``arch.tag``, ``hf-hub:org/name``,
        ``local-dir:FOLDER``; or a backbone that ships with toptune; or ``random:NAME`` for the architecture
        and transform of any of these with untrained weights from a fixed seed. Networks of other libraries
        have the library's name before a colon: docs/backbones.md lists them.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``; a device that is not there is an error.
    pretrained : bool
        False is the same as ``random:`` before the name.
    expected : Recipe, optional
        Recipe that the backbone should have. An architecture, an argument or a size that contradicts it is
        refused before the network is built; the recipes are left for the caller to compare.
    **arguments
        The options of `BackboneSpec`: `weights`, `precision`, `img_size`, `mean`, `std`, `crop_pct`,
        `interpolation`, `model_kwargs`, `fold`, `compiled`, `decode`, `in_chans`, `bands`, `scale`. Here
        `precision` is ``fp32``, `fold` is False and `decode` is ``exact`` by default, so that the model
        computes as timm's own does.

    Returns
    -------
    Backbone
        In eval mode, on the device, in the memory layout ``channels_last``.

    Raises
    ------
    InputError
        If the name or an option is unknown (close ones are listed), or an option does not fit the model.
    WeightsError
        If weights are absent or do not fit, with the names of the tensors.
    DeviceMemoryError
        If the network does not fit the device's memory.

    Examples
    --------
    >>> backbone = load_backbone("random:test_vit", img_size=64)
    >>> backbone.recipe.precision, backbone.transform.size
    ('fp32', (64, 64))
    >>> [array.name for array in backbone.resolve("last")]
    ['last.none']
    """
    name = str(name)
    parsed = parse_model_name(name if pretrained or name.startswith("random:") else f"random:{name}")
    plain = {"precision": "fp32", "fold": False, "decode": "exact"}
    asked = options_of(BackboneSpec, plain | arguments, call="load_backbone")
    where = resolve_device(device)
    kwargs = dict(asked.model_kwargs or {})
    spec = dataclasses.replace(
        asked,
        weights=None if asked.weights is None else str(Path(asked.weights).absolute()),
        precision=resolve_precision(asked.precision, where),
        model_kwargs=kwargs or None,
    )
    model, reported_kwargs = build_model(
        parsed, weights=asked.weights, img_size=spec.img_size, in_chans=spec.in_chans, model_kwargs=kwargs,
        expected=expected,
    )  # fmt: skip
    config = _data_config(model, spec)
    model.eval().requires_grad_(False)
    # The digest is that of the checkpoint's own numbers: folding and precision, which change them below, are
    # fields of the recipe beside it.
    weights_sha256 = weights_digest(model)
    folded: list[str] = []
    if spec.fold:
        model, folded = fold_batch_norms(model, tuple(config["input_size"]))
    # Torch does not have the resizing of every model: the route is then the exact one.
    transform = EvalTransform(config, route=NEW_FEATURES if spec.decode == AUTO else spec.decode)
    spec = dataclasses.replace(spec, decode=transform.route)
    recipe = Recipe(
        architecture=str(model.pretrained_cfg["architecture"]),
        model_kwargs=reported_kwargs,
        weights=weights_sha256,
        transform=config,
        decode=ROUTES[spec.decode],
        precision=spec.precision,
        forward="+".join([FOLDED] * bool(folded) + ["compiled"] * spec.compiled),
    )
    with _explained(f"loading {parsed.plain}", where):
        model = model.to(where, DTYPES[spec.precision])
    # Convolutions run faster in this layout, and linear layers do not care: results differ by rounding only.
    # Only weights of rank 4 have it: for those of other ranks, such as 3-D convolutions, torch would raise.
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return Backbone(
        name=parsed.plain,
        given=parsed.given,
        options=spec,
        recipe=recipe,
        model=model,
        transform=transform,
        device=where,
        folded=frozenset(folded),
    )


def list_taps(
    model: str | Custom | Backbone,
    *,
    weights: str | Path | None = None,
    img_size: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> list[Tap]:
    """List the taps of a backbone: its blocks in order, then ``last``.

    Parameters
    ----------
    model : str, Custom or Backbone
        A loaded backbone, or a name as `load_backbone` takes names. The model of a name is built with
        untrained weights, because its layers do not depend on them: nothing is downloaded for timm's own
        names.
    weights, img_size, model_kwargs : optional
        Options of `load_backbone`, for a name. `weights` are needed only to check that a checkpoint fits.

    Returns
    -------
    list of Tap
        Name, kind, shape and poolings of each place whose output can be stored.

    Examples
    --------
    >>> taps = list_taps("test_vit", img_size=64)
    >>> taps[-1].name, taps[-1].poolings
    ('last', ('none',))
    """
    if isinstance(model, Backbone):
        return model.taps
    # A network of one's own has no untrained weights.
    is_pretrained = weights is not None or str(model).startswith(("custom:", "torchhub:"))
    return load_backbone(
        model, weights=weights, img_size=img_size, model_kwargs=model_kwargs, pretrained=is_pretrained
    ).taps


def _explained(what: str, device: torch.device) -> AbstractContextManager[None]:
    """Say of work that fills the device's memory what makes the work smaller."""
    return explained_out_of_memory(
        what, device=device, knobs="stop other programs there, take a smaller --model or --img-size"
    )


def _data_config(model: Any, spec: BackboneSpec) -> dict[str, Any]:
    """Resolve the model's evaluation transform, with the values of the spec in place of the model's own."""
    args, reading = spec.transform_options(), spec.reading
    given = {name: args.pop(name) for name in ("mean", "std")}
    if reading.channels == COLORS:
        args |= given
    if args["img_size"] is None:
        args["img_size"] = (spec.model_kwargs or {}).get("img_size")
    found = resolve_data_config(args, model=model)
    check_transform(found, where="the model")
    config: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple | list) else value for key, value in found.items()
    }
    if config["input_size"][0] not in (COLORS, reading.channels):
        raise InputError(
            f"the model takes {config['input_size'][0]} channels, and {reading.channels} are given to it; "
            "say --in-chans"
        )
    # The recipe's digest is taken of JSON, in which 1 and 1.0 differ.
    for key in ("mean", "std"):
        if len(config[key]) != COLORS:
            raise InputError(f"the model has {key} {config[key]!r:.60}; it must be red's, green's and blue's")
        config[key] = [float(value) for value in config[key]]
        if reading.channels != COLORS:
            # The model's own values are those of colors, which other bands are not.
            own = given[key] if given[key] is not None else [sum(config[key]) / COLORS]
            config[key] = [float(value) for value in own] * (reading.channels if len(own) == 1 else 1)
    config["input_size"][0] = reading.channels
    config |= reading.words
    config["crop_pct"] = float(config["crop_pct"])
    return config
