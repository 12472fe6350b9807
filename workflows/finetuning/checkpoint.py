"""`Checkpoint` keeps an unfinished fine-tuning as safetensors and JSON, complete after every epoch."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from toptune.costs.values import Costs
from toptune.errors import ConflictError, CorruptError
from toptune.store.files.json_values import parse_json
from toptune.store.files.reading import read_linked
from toptune.store.files.sealed import SEAL, seal_values, unseal_values
from toptune.store.files.system_errors import explained_writing
from toptune.store.files.writing import replace_file
from toptune.workflows.finetuning.rate_search import Epoch

STATE = "state.json"
# An older or newer form of the state is refused: guessing its meaning could change the numbers.
VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far an unfinished fine-tuning has come.

    Attributes
    ----------
    epochs : tuple of Epoch
        All finished epochs, in order.
    costs : mapping, optional
        Costs of the sessions so far; see `PhaseCosts`.
    last, best : str, optional
        Names of the files of the state after the last epoch and after the best epoch of all trainings.
    """

    epochs: tuple[Epoch, ...] = ()
    costs: Costs | None = None
    last: str | None = None
    best: str | None = None


class Checkpoint:
    """The folder ``RUN.unfinished``, beside the place of the finished run.

    ``state.json`` is replaced last, in one step, and names the files that belong to the state. If the process
    is killed at any moment, the folder holds the state after the last finished epoch or the one before.

    Parameters
    ----------
    out : Path
        The run's folder.
    request : mapping
        The options and data that decide the result, as JSON values.
    """

    def __init__(self, out: Path, request: Mapping[str, object]) -> None:
        self.folder = out.parent / f"{out.name}.unfinished"
        # The request is compared with one that was read from JSON, where tuples have become lists.
        self._request = json.loads(json.dumps(request))
        # SHA-256 of the files of tensors, by name.
        self._digests: dict[str, str] = {}

    def read(self) -> Standing:
        """Return the standing that is stored, or an empty one if there is none.

        Raises
        ------
        ConflictError
            If the stored fine-tuning was asked for with another request.
        CorruptError
            If the state cannot be read.
        """
        path = self.folder / STATE
        try:
            data = read_linked(path)
        except FileNotFoundError:
            return Standing()
        try:
            value = parse_json(data, is_strict=True)
            # The states of earlier versions of toptune have no seal.
            if SEAL in value:
                value = unseal_values(value, data, path, advice=self._anew)
            request, version = value["request"], value["version"]
            standing = Standing(
                epochs=tuple(Epoch(**each) for each in value["epochs"]),
                **{name: value[name] for name in ("costs", "last", "best")},
            )
            self._digests = dict(value.get("digests", {}))
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"{path} cannot be read ({error!r}); {self._anew}") from error
        if version != VERSION or request != self._request:
            changes = [
                f"{name} {request.get(name)!r} there, {self._request.get(name)!r} now"
                for name in sorted(request.keys() | self._request.keys())
                if request.get(name) != self._request.get(name)
            ]
            raise ConflictError(
                f"{self.folder} holds an unfinished fine-tuning of something else: "
                f"{'; '.join(changes) or f'format {version}, here {VERSION}'}. Give the same options to go "
                f"on, another --out, or {self._anew}"
            )
        return standing

    def load(self, name: str) -> dict[str, torch.Tensor]:
        """Read a file of tensors.

        Raises
        ------
        CorruptError
            If the file is gone or damaged.
        """
        path = self.folder / name
        try:
            data = read_linked(path)
            tensors = dict(load(data))
        except (FileNotFoundError, SafetensorError) as error:
            raise CorruptError(f"{path} cannot be read ({error}); {self._anew}") from error
        if self._digests.get(name) not in (None, hashlib.sha256(data).hexdigest()):
            raise CorruptError(f"{path} is not the file that was written; {self._anew}")
        return tensors

    def write(
        self,
        epochs: Sequence[Epoch],
        *,
        costs: Costs,
        last: Mapping[str, torch.Tensor],
        best: Mapping[str, torch.Tensor] | str | None,
    ) -> Standing:
        """Write the state after the last epoch, from which an interrupted fine-tuning goes on.

        Parameters
        ----------
        epochs : sequence of Epoch
            All finished epochs.
        costs : mapping
            Costs of the sessions so far.
        last : mapping
            Tensors of network and optimizer after the last epoch.
        best : mapping, str or None
            Tensors of the best network if the last epoch is the best, else the file that holds them.
        """
        # The new files have new names, so that the old state stays whole until ``state.json`` names the new
        # ones. Files that no state names are removed after that.
        number = len(epochs)
        names: dict[str, str | None] = {"last": f"last-{number:05}.safetensors"}
        with explained_writing(
            self.folder, elsewhere="give another --out", kept="the state of the epoch before stays"
        ):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(f"last-{number:05}.safetensors", last)
            if isinstance(best, Mapping):
                names["best"] = f"best-{number:05}.safetensors"
                self._write(f"best-{number:05}.safetensors", best)
            else:
                names["best"] = best
            value = {
                "version": VERSION,
                "request": self._request,
                "epochs": [each.to_dict() for each in epochs],
                "costs": costs,
                "digests": {name: self._digests[name] for name in names.values() if name in self._digests},
                **names,
            }
            replace_file(self.folder / STATE, seal_values(value))
        for path in self.folder.iterdir():
            if path.name not in (STATE, *names.values()):
                path.unlink()
        return Standing(epochs=tuple(epochs), costs=costs, last=names["last"], best=names["best"])

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        data = save(dict(tensors))
        self._digests[name] = hashlib.sha256(data).hexdigest()
        replace_file(self.folder / name, data)

    def remove(self) -> None:
        """Remove the folder once the run is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _anew(self) -> str:
        """The next step for whoever reads an error about this folder."""
        return f"remove {self.folder} to begin anew"
