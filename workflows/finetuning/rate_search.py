"""The finished epochs decide which learning rate and epoch are best, and when a training is over."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from toptune.workflows.finetuning.options import FineTuneOptions


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of one training.

    Attributes
    ----------
    trial : int
        Number of the training, from 0: the place of its learning rate in the grid. The refit has the number
        after the last rate.
    learning_rate : float
        Peak rate of the training.
    epoch : int
        Number of the epoch, from 1.
    train_loss : float, optional
        Mean loss of the epoch's augmented images, by the weights at the step of each image; None if the loss
        is not finite.
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
        """Whether the loss is not finite any more."""
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
    # Between equal scores, the smaller rate counts before the earlier epoch, because a small rate moves the
    # pretrained weights less.
    sound = [each for each in epochs if not each.is_diverged]
    return max(sound, key=lambda each: (*rank(each)[:2], -each.trial, rank(each)[2]), default=None)


def is_over(epochs: Sequence[Epoch], options: FineTuneOptions) -> bool:
    """Return whether a training ends after its finished epochs.

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
    # Without validation rows nothing tells that a training gets worse, so that all epochs run.
    if epochs[-1].validation_accuracy is None or len(epochs) < options.min_epochs:
        return False
    best = best_epoch(epochs)
    return best is not None and len(epochs) - best.epoch >= options.patience


def search_warnings(epochs: Sequence[Epoch], best: Epoch, options: FineTuneOptions) -> list[str]:
    """List sentences that a reader of the result should know about the search.

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
        f"learning rate {each.learning_rate:g} diverged in epoch {each.epoch}: the loss is NaN or infinite "
        "[TT415]"
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
            "beyond may do better [TT401]"
        )
    if best.epoch == options.epochs:
        notes.append(f"the best epoch is the last of {options.epochs}; more --epochs may do better [TT416]")
    return notes
