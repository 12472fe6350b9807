"""What computing some units took, by this process or by a dask worker."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelDone:
    """One model's share.

    Attributes
    ----------
    n_failed : int
        Pictures that could not be used.
    seconds_compute, seconds_write : float
        Of its forward passes and of committing.
    """

    n_failed: int = 0
    seconds_compute: float = 0.0
    seconds_write: float = 0.0

    def __add__(self, other: "ModelDone") -> "ModelDone":
        return ModelDone(
            n_failed=self.n_failed + other.n_failed,
            seconds_compute=self.seconds_compute + other.seconds_compute,
            seconds_write=self.seconds_write + other.seconds_write,
        )


@dataclass(frozen=True, kw_only=True)
class UnitsDone:
    """Units of one data set, read once for some models.

    Attributes
    ----------
    seconds_read : float
        That reading and decoding took, shared by its threads.
    models : tuple of ModelDone
        One a model, in the order they were given.
    """

    seconds_read: float
    models: tuple[ModelDone, ...]

    def __add__(self, other: "UnitsDone") -> "UnitsDone":
        return UnitsDone(
            seconds_read=self.seconds_read + other.seconds_read,
            models=tuple(a + b for a, b in zip(self.models, other.models, strict=True)),
        )
