"""Every note, warning and refusal that a user may want to look up has a code, such as ``TT012``.

The code stands at the end of the text, ``... without a label [TT012]``, so that the code goes where the
text goes: to the terminal, into JSON, into ``run.json`` and the report. A refusal has its code as an
attribute, and whoever shows the refusal writes the code behind the message. The page
docs/reference/warnings.md has a section for each code; tests/test_codes.py holds the texts, this table and
the page together.

The first digit says what a code is about: 0 images and labels as they are given, 1 extraction, 2 the store,
3 rows and folds, 4 fits and their choices, 5 what is done with runs, 9 refusals.
"""

import re
from collections.abc import Mapping

_AT_THE_END = re.compile(r"\[(TT\d{3})\]$")

# Notes and warnings: the work goes on, and ``--ignore`` leaves them out of what is printed.
WARNINGS: Mapping[str, str] = {
    "TT001": "Files whose names are not those of images are left out",
    "TT002": "Hidden names, links and special files are left out",
    "TT003": "Images outside the class folders are left out",
    "TT004": "A folder is no class, and is left out",
    "TT005": "A folder around all others is passed over",
    "TT006": "Folders may be another level than they look like",
    "TT007": "Stores and runs of toptune inside the data are left out",
    "TT008": "A table beside the images is not read",
    "TT009": "Names of classes are changed",
    "TT010": "A column is taken for the labels, ids or paths by its name",
    "TT011": "A column is not kept",
    "TT012": "No image has a label",
    "TT013": "Images in the same folders are not listed",
    "TT014": "A table has another separator than a comma",
    "TT015": "A split is neither train, val nor test",
    "TT016": "Samples or shards have no image that is known",
    "TT017": "Labels of shards are not found",
    "TT018": "An image of a sample may be a mask",
    "TT019": "Files of arrays are missing or left out",
    "TT020": "Images of no split are left out",
    "TT021": "Imported rows and ids do not match",
    "TT022": "Images use a small part of their range",
    "TT023": "Rows are boxes of images",
    "TT101": "Half precision is slow on a CPU",
    "TT102": "Precision auto takes fp32",
    "TT103": "Features in reduced precision differ from those in fp32",
    "TT104": "Features go on with the layers that they were begun with",
    "TT105": "An array is stored as float32",
    "TT106": "One of several GPUs is used",
    "TT107": "The plan is made on the CPU",
    "TT108": "The GPU's decoder refuses an image",
    "TT109": "No page-locked memory is left",
    "TT110": "A dask worker is gone",
    "TT111": "The dask cluster has no workers",
    "TT112": "A batch did not fit into the memory of the GPU",
    "TT113": "The batch size follows from the memory of the GPU",
    "TT114": "Features are not finite",
    "TT201": "Units count as missing",
    "TT202": "Features that are not whole are left out",
    "TT203": "A part of the store cannot be read and is left out",
    "TT204": "A finished request is not recognized",
    "TT205": "Digests of images are left out",
    "TT206": "Images that could not be used are left out",
    "TT207": "A damaged file is written again",
    "TT208": "A file is no part of the store",
    "TT209": "A temporary file stays behind",
    "TT210": "The data set keeps what was read when it was stored",
    "TT301": "Images without a label are not used",
    "TT302": "Images have several labels",
    "TT303": "Labeled images are in no split that was asked for",
    "TT304": "An option of the split has no effect",
    "TT305": "Groups stay on one side of the split",
    "TT306": "Labels look like numbers",
    "TT307": "Decisions on images count",
    "TT308": "Decisions on images are not used",
    "TT309": "Test images are copies of training images",
    "TT310": "Copies across the split were not looked for",
    "TT311": "Fewer folds than asked for",
    "TT312": "Classes take no part in cross-validation",
    "TT313": "Test images are of classes without training",
    "TT314": "Layers were compared on a sample",
    "TT315": "No label applies to training images",
    "TT316": "Labels of training images are unknown",
    "TT317": "A label that is new to the run is not calibrated",
    "TT318": "Names of classes look like several labels",
    "TT319": "Too few images of a label to choose its threshold",
    "TT320": "A question mark is a class",
    "TT401": "A chosen value is at the edge of its grid",
    "TT402": "A system needed jitter",
    "TT403": "Combinations could not be fitted",
    "TT404": "Rows are no part of the left-out figures",
    "TT405": "A fit has not converged",
    "TT406": "A library warned during the fit",
    "TT407": "The temperature was limited",
    "TT408": "Centers were dropped",
    "TT409": "Fewer principal components than asked for",
    "TT410": "Backbones weigh the same",
    "TT411": "A backbone weighs nothing",
    "TT412": "Repeated fits differ from those of the run",
    "TT413": "The head reads fewer networks than it was trained on",
    "TT414": "An update keeps the choices of the run before",
    "TT415": "A learning rate diverged",
    "TT416": "The best epoch is the last",
    "TT417": "The chosen head has not the highest accuracy",
    "TT418": "A run is large beside its features",
    "TT501": "The files of a run cannot be checked",
    "TT502": "A file is none of the run's",
    "TT503": "Exported and predicted probabilities differ",
    "TT504": "The comparison of an export shows little",
    "TT505": "Runs are left out of a report",
    "TT506": "A report shows a part of its settings",
    "TT507": "Trainings of a study are not used or failed",
    "TT508": "An inspection could not look at everything",
    "TT509": "Neighbors are approximate",
    "TT510": "Leaks are told of a split that is drawn",
    "TT511": "Images are named but not shown",
    "TT512": "A batch job is planned otherwise than asked for",
    "TT513": "Images to be evaluated may be training images",
    "TT514": "The classes are too many to list",
    "TT515": "A figure of an evaluation is not measured",
    "TT516": "What a run says beyond labels is not as asked for",
}

# Refusals: nothing is done, and the message says what to do. They cannot be ignored.
REFUSALS: Mapping[str, str] = {
    "TT900": "toptune cannot go on",
    "TT901": "An input cannot be used",
    "TT902": "Nothing can be left out of training",
    "TT903": "An image cannot be decoded",
    "TT904": "Weights do not fit",
    "TT905": "The store cannot do what was asked",
    "TT906": "Nothing is stored under this name",
    "TT907": "The store has another version of the format",
    "TT908": "The name is taken by other content",
    "TT909": "Features are not complete",
    "TT910": "Bytes differ from their checksum",
    "TT911": "A computation lost its meaning",
    "TT912": "The memory of a device is full",
    "TT913": "The work stopped early",
}

CODES: Mapping[str, str] = {**WARNINGS, **REFUSALS}


def code_of(text: str) -> str | None:
    """Return the code at the end of a text, or None.

    Examples
    --------
    >>> code_of("5 images without a label [TT012]"), code_of("5 images")
    ('TT012', None)
    """
    found = _AT_THE_END.search(text)
    return found[1] if found else None


def without_code(text: str) -> str:
    """Return a text without the code at its end.

    Examples
    --------
    >>> without_code("5 images without a label [TT012]")
    '5 images without a label'
    """
    return _AT_THE_END.sub("", text).rstrip()


def with_code(text: str, code: str) -> str:
    """Return a text with a code at its end, in place of the code that may stand there."""
    return f"{without_code(text)} [{code}]"
