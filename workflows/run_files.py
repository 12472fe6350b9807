"""The files of a RUN folder are compared with the checksums that were recorded when they were written."""

import os
from dataclasses import dataclass
from pathlib import Path

from toptune.errors import CorruptError
from toptune.text import counted
from toptune.train.runs.record import CONFIG, RunRecord
from toptune.train.runs.run import Run
from toptune.workflows.finetuning.run import FineTunedRun


@dataclass(frozen=True, kw_only=True)
class RunCheck:
    """What `verify_run` found.

    Attributes
    ----------
    run : str
        The RUN folder.
    checked : int
        Number of files that were compared, ``run.json`` among them.
    faults : mapping of str to str
        Name of each file that is missing or is not the one that was written, with the fault.
    strange : tuple of str
        Files that the record does not name: somebody has put them there.
    has_checksums : bool
        Whether there was anything to compare with; runs of earlier versions of toptune have no checksums,
        and are opened instead.
    """

    run: str
    checked: int
    faults: dict[str, str]
    strange: tuple[str, ...]
    has_checksums: bool

    @property
    def exit_code(self) -> int:
        """0 if no file is at fault, 1 otherwise."""
        return 1 if self.faults else 0

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {
            "run": self.run, "checked": self.checked, "faults": self.faults, "strange": list(self.strange),
            "has_checksums": self.has_checksums,
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"damaged: {Path(self.run) / name} {fault}" for name, fault in self.faults.items()]
        lines += [f"note: {name} is none of the run's files [TT502]" for name in self.strange]
        if not self.has_checksums:
            lines.append(
                "note: the run was made before runs had checksums: its files could be opened, and whether "
                "their numbers are those that were written cannot be checked; train again to have checksums "
                "[TT501]"
            )
        elif self.faults:
            lines.append("copy the run again from where it was made, or train again")
        verdict = "damaged" if self.faults else "whole"
        lines.append(f"{self.run}: {verdict}, {counted(self.checked, 'file')} compared")
        return "\n".join(lines)


def verify_run(run: str | os.PathLike[str]) -> RunCheck:
    """Compare every file of a RUN folder with its recorded checksum.

    Parameters
    ----------
    run : path
        Folder that `toptune.train.train` or `toptune.workflows.finetune` wrote.

    Returns
    -------
    RunCheck

    Raises
    ------
    InputError
        If the folder is no RUN.
    StoreError
        If the system refuses to read a file.
    """
    folder = Path(run)
    try:
        record = RunRecord.of_folder(folder)
    except CorruptError as error:
        # Without its record, nothing says what the other files should be.
        fault = {CONFIG: str(error).removeprefix(f"{folder / CONFIG} ")}
        return RunCheck(run=str(folder), checked=1, faults=fault, strange=(), has_checksums=True)
    if record.files is None:
        opened = FineTunedRun.of_record if record.is_finetuned else Run.of_record
        opened(folder, record)
        return RunCheck(run=str(folder), checked=0, faults={}, strange=(), has_checksums=False)
    faults = {name: reason for name in sorted(record.files) if (reason := record.fault_of(folder, name))}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return RunCheck(
        run=str(folder),
        checked=len(record.files) + 1,
        faults=faults,
        strange=tuple(sorted(there - record.files.keys() - {CONFIG})),
        has_checksums=True,
    )
