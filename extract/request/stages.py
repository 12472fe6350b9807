"""The stages of an extraction, as ``--profile`` measures them."""

from toptune.costs.stages import PipelineProfile, Stage

_READERS, _PASSES, _MAIN = "reading threads", "forward passes", "main thread"

STAGES = {
    "read": Stage(
        workers=_READERS, advice="put the images on a faster disk, into tar shards, or read by more --workers"
    ),
    "decode": Stage(
        workers=_READERS,
        is_computing=True,
        advice="decode by more --workers where cores are free, or large JPEGs by --decode draft",
    ),
    "resize": Stage(
        workers=_READERS,
        is_computing=True,
        advice="resize by --decode fast, or by more --workers where cores are free",
    ),
    "device decode": Stage(
        workers=_MAIN,
        advice="the GPU's JPEG decoder takes the time: give each GPU fewer images, or decode on the CPU by "
        "--decode fast where cores are free",
    ),
    "device resize": Stage(
        workers=_MAIN,
        advice="resize on the CPU by --decode fast where cores are free, or store smaller images",
    ),
    "launch": Stage(
        workers=_MAIN,
        advice="the CPU launches kernels more slowly than the GPU computes them: take a larger --batch-size, "
        "or --compile",
    ),
    "forward": Stage(
        workers=_PASSES,
        is_computing=True,
        advice="the network itself takes the time: a GPU or a smaller model is faster, and so is --precision "
        "bf16 where the hardware has it and the pass is in fp32",
    ),
    "pool": Stage(workers=_PASSES, is_computing=True, advice="store fewer --layers or poolings"),
    "transfer": Stage(workers=_MAIN, advice="store fewer --layers, or --dtype float16"),
    "write": Stage(
        workers="committing threads", advice="put the store on a faster disk, or store fewer --layers"
    ),
}


def extraction_profile() -> PipelineProfile:
    """Make a profile for `toptune.extract.extract`, which measures its stages there.

    Examples
    --------
    >>> from toptune.extract import extract, extraction_profile
    >>> profile = extraction_profile()
    >>> _ = extract("digits", model="resnet10t.toptune_glyphs", store="store", profile=profile)
    >>> [use.stage for use in profile.uses() if use.images]
    ['read', 'decode', 'resize', 'forward', 'pool', 'transfer', 'write']
    """
    return PipelineProfile(STAGES)
