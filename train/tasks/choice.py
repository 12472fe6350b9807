"""Which task a training has: the one that was asked for, or the one that the data set's labels say."""

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.train.tasks.classification import Classification
from toptune.train.tasks.multilabel import Multilabel, has_several
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION, MULTILABEL
from toptune.train.tasks.regression import Regression
from toptune.train.tasks.task import Task, Wanted

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Multilabel(), Regression())}


def task_of(name: str) -> Task:
    """Return the task of a name; of ``auto``, which nothing has settled, classification.

    Raises
    ------
    InputError
        For a task that this toptune does not know.
    """
    found = TASKS.get(CLASSIFICATION if name == AUTO_TASK else name)
    if found is None:
        raise InputError(f"task {name!r} is unknown; there are {', '.join(TASKS)}", option="task")
    return found


def told_task(name: str, wanted: Wanted, manifest: Manifest) -> str:
    """Return the name of the task: the one that was asked for or, by ``auto``, what the data set says.

    With ``auto``, a column ``labels`` of the data set with several labels in a row means several labels,
    unless another column is named; anything else means one class an image.

    Raises
    ------
    InputError
        If one label an image is asked for by name, and the data set's labels are several.
    """
    several = wanted.label_column is None and has_several(manifest)
    if name == AUTO_TASK:
        return MULTILABEL if several else CLASSIFICATION
    if name == CLASSIFICATION and several:
        raise InputError(
            f"--task {CLASSIFICATION}, and images of the data set have several labels; leave --task out "
            f"({MULTILABEL} is taken then), or {_one_label(manifest)}",
            option="task",
        )
    return name


def _one_label(manifest: Manifest) -> str:
    """Say how a head that takes one label an image is trained on a data set of several."""
    if any(label is not None for label in manifest.labels):
        return f"take the one label that images have as well: --task {CLASSIFICATION} --label-column label"
    return "name a column with one label an image with --label-column"
