"""Products of rows on one selection of columns after the other."""

import numpy as np
import torch
from torch import Tensor

from toptune.train.column_selection import Columns


class SelectedKernel:
    """The linear kernel of rows on some columns, brought from one selection to the next.

    Selections without different folds and at neighbouring penalties differ in a few columns: only those are
    multiplied, to be added or taken away.

    Parameters
    ----------
    values : Tensor of float64, shape (d, n)
        A column of the data in each row.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self._kernel = values.new_zeros((values.shape[1], values.shape[1]))
        self._columns: Columns = np.empty(0, np.int64)

    def of(self, columns: Columns) -> Tensor:
        """``X_A X_A^T``, (n, n), valid until the next call."""
        joining = np.setdiff1d(columns, self._columns, assume_unique=True)
        leaving = np.setdiff1d(self._columns, columns, assume_unique=True)
        if len(joining) + len(leaving) >= len(columns):
            self._kernel.zero_()
            joining, leaving = columns, leaving[:0]
        for changing, sign in ((joining, 1), (leaving, -1)):
            if len(changing):
                some = self.values[torch.from_numpy(changing).to(self.values.device)]
                self._kernel.addmm_(some.T, some, alpha=sign)
        self._columns = columns
        return self._kernel
