"""Write ``manifest.csv`` for each task of VTAB-1k from the lists that lie beside its images.

Usage::

    python scripts/vtab_manifests.py FOLDER

FOLDER is the ``vtab-1k`` that many projects share: a folder a task, with ``images/``, ``train800val200.txt``
and ``test.txt``, whose lines are a path below the task's folder and a number, the class. The 1,000 images
train and the others test, as the published figures are taken; folds of five divide the 1,000 as 800 and 200.
"""

import argparse
import csv
import sys
from pathlib import Path

LISTS = {"train": "train800val200.txt", "test": "test.txt"}


def rows_of(task: Path) -> list[tuple[str, str, str]]:
    """Return path, class and split of each line of a task's lists.

    Raises
    ------
    ValueError
        If a line is not a path and a class.
    """
    rows = []
    for split, name in LISTS.items():
        for number, line in enumerate((task / name).read_text().splitlines(), start=1):
            path, _, label = line.strip().rpartition(" ")
            if not (path and label.isdecimal()):
                raise ValueError(f"{task / name}: line {number} is {line!r}; a path and a class belong there")
            rows.append((path, label, split))
    return rows


def main() -> int:
    """Write the manifests, and say how many rows each has."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tasks = sorted(path.parent for path in folder.glob(f"*/{LISTS['train']}"))
    if not tasks:
        print(f"{folder} has no folder with {LISTS['train']}; name the folder of the tasks", file=sys.stderr)
        return 2
    for task in tasks:
        rows = rows_of(task)
        with (task / "manifest.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "split"), *rows])
        n_train, n_test = (sum(row[2] == side for row in rows) for side in ("train", "test"))
        print(f"{task.name}: {n_train} train, {n_test} test")
    return 0


if __name__ == "__main__":
    sys.exit(main())
