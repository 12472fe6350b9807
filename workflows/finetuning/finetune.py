"""`finetune` trains the baseline that a frozen backbone is compared with, on the same rows and images."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from toptune.errors import InterruptedRunError
from toptune.extract.backbone.model_name import check_is_timm
from toptune.extract.images.source import ImageData
from toptune.machine.watch import Stop, Watch
from toptune.options import options_of
from toptune.train.runs.record import is_finetuned
from toptune.train.runs.writing import check_out
from toptune.workflows.finetuning.options import FineTuneArguments, FineTuneOptions
from toptune.workflows.finetuning.progress import Progress
from toptune.workflows.finetuning.rows import TuningRows

if TYPE_CHECKING:  # torch and timm take seconds to import, which data that is refused does not need
    from toptune.workflows.finetuning.run import FineTunedRun


def finetune(
    data: ImageData,
    *,
    model: str,
    out: str | os.PathLike[str],
    progress: Progress | None = None,
    stop: Stop | None = None,
    time_limit: float | None = None,
    **arguments: Unpack[FineTuneArguments],
) -> "FineTunedRun":
    """Fine-tune a pretrained network and write a RUN folder.

    Each learning rate is trained from the pretrained weights, on the training rows without a validation part,
    until the validation stops improving. The best epoch of all is tested, once, on the rows that
    `toptune.train.train` tests on. After every epoch the state is written to ``<out>.unfinished``: if a call
    is killed at any moment, the same call goes on from there, also on another device. On the CPU with one
    thread, the losses are those that it would have had. On CUDA they are so only to rounding, which grows
    with the steps: some backward passes add in an order that varies.

    Parameters
    ----------
    data : path, str or ImageSource
        A folder of images, a file or the name of a built-in data set, with labels.
    model : str
        Name of the backbone: a name of timm's, or ``local-dir:`` and a folder.
    out : path
        RUN folder to make. If it holds the same fine-tuning, finished, the run is returned with ``was_there``
        set, and nothing is trained.
    progress : callable, optional
        Called with a `ProgressReport` as images are done.
    stop : callable, optional
        Called between batches; returns None to go on, or the seconds within which the epoch may still be
        finished.
    time_limit : float, optional
        Seconds from now; an epoch that would not be done by then is not begun.
    **arguments
        The fields of `FineTuneOptions` and `RowOptions`.

    Returns
    -------
    FineTunedRun
        The run that was written, or that was there.

    Raises
    ------
    InputError, WeightsError
        If something given cannot be used, or images fail that may not.
    ConflictError
        If ``<out>.unfinished`` holds another fine-tuning.
    NumericalError
        If every learning rate diverged.
    DeviceMemoryError
        If a batch does not fit the device's memory; the finished epochs stay.
    InterruptedRunError
        If Ctrl-C, `stop` or the time limit ended the work; the finished epochs stay.

    Examples
    --------
    The classifier alone is trained for an epoch on a few of the built-in digits:

    >>> run = finetune(
    ...     "digits", model="resnet10t.toptune_glyphs", out="tuned", depth="head", epochs=1, warmup_epochs=0,
    ...     learning_rates=[1e-2], shots=4, test_fraction=0.05,
    ... )
    >>> run.metrics["n_train"], run.metrics["costs"]["epochs"]
    (40, 1)
    """
    asked = options_of(FineTuneOptions, arguments, call="finetune")
    watch = Watch(stop=stop, time_limit=time_limit)
    folder = Path(os.fspath(out)).absolute()
    try:
        if not is_finetuned(folder):
            check_out(folder)
        check_is_timm(model)
        rows = TuningRows.of(data, asked)
        # torch and timm are imported now that names, places and columns have been checked.
        from toptune.workflows.finetuning.session import tune

        return tune(
            rows, model=model, folder=folder, options=asked, watch=watch,
            progress=progress or (lambda _report: None),
        )  # fmt: skip
    except KeyboardInterrupt:
        raise InterruptedRunError("stopped; what is written stays, and the same command resumes") from None
