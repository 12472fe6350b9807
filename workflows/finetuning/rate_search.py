"""Which learning rate and epoch are best, and when a training is over, decided from the finished epochs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from toptune.workflows.finetuning.options import FineTuneOptions


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of one training.

    Attributes
    ----------
    trial : int
        Number of the training: that of the learning rate; the refit comes after all rates.
    learning_rate : float
        Peak rate of the training.
    epoch : int
        Number of the epoch, from 1.
    train_loss : float, optional
        Mean loss of the epoch's augmented images, each by the weights of its step; None if not finite.
    validation_loss, validation_accuracy : float, optional
        Figures of the validation rows after the epoch; None without validation rows.
    """

    trial: int
    learning_rate: float
    epoch: int
    train_loss: float | None
    validation_loss: float | None = None
    validation_accuracy: float | None = None

    @property
    def is_diverged(self) -> bool:
        """Whether the loss stopped being a number."""
        return self.train_loss is None

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self)


def rank(epoch: Epoch) -> tuple[float, float, int]:
    """Return a key that orders epochs, the best last: by validation accuracy, then loss, then age.

    Without validation rows, the latest epoch is the best.
    """
    if epoch.validation_accuracy is None or epoch.validation_loss is None:
        return (-1.0, 0.0, epoch.epoch)
    # Ties go to the first epoch.
    return (epoch.validation_accuracy, -epoch.validation_loss, -epoch.epoch)


def best_epoch(epochs: Sequence[Epoch]) -> Epoch | None:
    """Return the best epoch that did not diverge. Ties go to the smallest learning rate."""
    sound = [each for each in epochs if not each.is_diverged]
    return max(sound, key=lambda each: (*rank(each)[:2], -each.trial, rank(each)[2]), default=None)


def is_over(epochs: Sequence[Epoch], options: FineTuneOptions) -> bool:
    """Whether a training ends after its finished epochs.

    Parameters
    ----------
    epochs : sequence of Epoch
        Epochs of one learning rate, in order.
    options : FineTuneOptions
        Limits on the epochs, and the patience.
    """
    if not epochs:
        return False
    if epochs[-1].is_diverged or len(epochs) >= options.epochs:
        return True
    if epochs[-1].validation_accuracy is None or len(epochs) < options.min_epochs:
        return False
    best = best_epoch(epochs)
    return best is not None and len(epochs) - best.epoch >= options.patience


def search_warnings(epochs: Sequence[Epoch], best: Epoch, options: FineTuneOptions) -> list[str]:
    """List what a reader of the result should know of the search.

    Parameters
    ----------
    epochs : sequence of Epoch
        Epochs of all learning rates.
    best : Epoch
        The chosen epoch.
    options : FineTuneOptions
        Grid of learning rates, and most epochs.
    """
    notes = [
        f"learning rate {each.learning_rate:g} diverged in epoch {each.epoch}: the loss is NaN or infinite"
        for each in epochs
        if each.is_diverged
    ]
    if best.validation_accuracy is None:
        return notes
    rates = options.rates
    if len(rates) > 1 and best.learning_rate in (rates[0], rates[-1]):
        end = "smallest" if best.learning_rate == rates[0] else "largest"
        notes.append(
            f"the chosen learning rate {best.learning_rate:g} is the {end} of the grid; one "
            "beyond may do better"
        )
    if best.epoch == options.epochs:
        notes.append(f"the best epoch is the last of {options.epochs}; more --epochs may do better")
    return notes
