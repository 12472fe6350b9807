"""`Asked`: a network that says more than labels of images, or one answer for several images."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.options import choices
from toptune.text import counted
from toptune.train.answers.options import AnswerOptions
from toptune.train.answers.things import FEATURES, Things
from toptune.train.verdicts.verdicts import Verdict, Verdicts
from toptune.workflows.predict.images import FoundImage, ImageLike, ListedImage, as_several, find_images
from toptune.workflows.predict.predictions import Answers, Prediction
from toptune.workflows.predict.windows import Network, Window, named_predictions, windows, with_failed

logger = logging.getLogger(__name__)

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A network, and what it is asked besides labels.

    Attributes
    ----------
    network : FrozenNetwork, FusedNetwork or FineTunedNetwork
    verdicts : Verdicts
    """

    network: Network
    verdicts: Verdicts

    @classmethod
    def of(cls, network: Network, options: AnswerOptions) -> "Asked":
        """Read what the answers need of the run.

        Raises
        ------
        InputError
            If the run cannot say what was asked.
        """
        run = network.record
        verdicts = Verdicts.of(run.record, run.folder, options)
        if options.wants_novelty:
            network = network.with_novelty()
        if verdicts.answer_by is not None and verdicts.answer_from == FEATURES:
            network = network.with_features()
        return cls(network=network, verdicts=verdicts)

    def predictions(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int,
        progress: Callable[[int, int], None] | None,
    ) -> list[Prediction]:
        """Classify images; parameters and errors are those of `Classifier.predict`."""
        options = self.verdicts.options
        if options.class_tree is not None and options.back_off is None:
            raise InputError(
                "class_tree has no effect on predictions without back_off; give --back-off, such as 0.9, or "
                "leave --class-tree out",
                option="class_tree",
            )
        found = list(find_images(as_several(images)))
        keys = self._keys(found)
        if keys is not None:
            # Images are computed for minutes, and what cannot be told is refused before.
            self.verdicts.check_things()
        for note in self.verdicts.notes(of_things=keys is not None):
            logger.warning("%s [TT516]", note)
        batches = windows(self.network, iter(found), batch_size=batch_size, progress=progress)
        if keys is not None:
            return self._of_things(list(batches), keys)
        return [each for answers, names, _ in batches for each in self._of_images(answers, names)]

    def _keys(self, images: Sequence[tuple[str, FoundImage]]) -> list[str] | None:
        """Return the thing that each image shows; None where images are answered one by one."""
        by = self.verdicts.options.answer_by
        if by is not None:
            return thing_keys(images, by)
        trained_by = self.verdicts.answer_by
        if trained_by is None:
            return None
        try:
            return thing_keys(images, trained_by)
        except InputError as error:
            logger.warning(
                "images are answered one by one, and not by %r as the run was trained: %s [TT516]",
                trained_by,
                error,
            )
            return None

    def _of_images(self, answers: Answers, names: Sequence[str]) -> list[Prediction]:
        values = self.verdicts.adjusted(answers.probabilities)
        verdicts = self.verdicts.of_rows(values, novelty=answers.novelty)
        named = named_predictions(
            [names[row] for row in answers.rows.tolist()], values, self.network.record.form
        )
        return with_failed(answers, names, list(map(_judged, named, verdicts)))

    def _of_things(self, batches: Sequence[Window], keys: Sequence[str]) -> list[Prediction]:
        """Answer for each thing by those of its images that could be used."""
        failed = [
            Prediction(path=names[row], error=reason)
            for answers, names, _ in batches
            for row, reason in sorted(answers.failed.items())
        ]
        good = [start + row for answers, _, start in batches for row in answers.rows.tolist()]
        parts = [answers for answers, _, _ in batches if len(answers.rows)]
        if not good:
            return failed
        things = Things.of([keys[row] for row in good])
        counts = things.counts.tolist()
        novelty = _joined([answers.novelty for answers in parts])
        values = self._values(things, parts)
        verdicts = self.verdicts.of_rows(
            values, novelty=None if novelty is None else things.means(novelty), counts=counts
        )
        form = self.verdicts.thing_form(self.network.record.form)
        return [*map(_judged, named_predictions(things.names, values, form), verdicts), *failed]

    def _values(self, things: Things, parts: Sequence[Answers]) -> Values:
        """Return what is said of things (n_things, k), for the frequencies that were given."""
        if self.verdicts.answer_from != FEATURES:
            adjusted = [self.verdicts.adjusted(answers.probabilities) for answers in parts]
            return self.verdicts.answers_of(things, np.concatenate(adjusted), self.network.record.form)
        of_heads = zip(*(answers.features for answers in parts if answers.features is not None), strict=True)
        means = [things.means(np.concatenate(features)).astype(np.float32) for features in of_heads]
        return self.verdicts.adjusted(self.network.of_means(means))


def _judged(prediction: Prediction, verdict: Verdict) -> Prediction:
    """Add what was asked, and take the answer out where it is withheld."""
    if not verdict.abstained:
        return replace(prediction, verdict=verdict)
    return replace(prediction, verdict=verdict, label=None, confidence=None, labels=None)


def thing_keys(images: Sequence[tuple[str, FoundImage]], by: str) -> list[str]:
    """Return the thing that each image shows, by a column of lists of images or a pattern on their names.

    Raises
    ------
    InputError
        If `by` is neither a column of the lists nor a pattern with a group, an image has no value, or the
        name of an image does not match.
    """
    keys: list[str | None] = []
    columns: set[str] = set()
    held: dict[int, list[str | None]] = {}
    for name, image in images:
        manifest = image.manifest if isinstance(image, ListedImage) else None
        columns |= set() if manifest is None else {*manifest.extra_names}
        if manifest is None or by not in ("label", "split", *manifest.extra_names):
            keys.append(_matched(by, name))
            continue
        values = held.setdefault(id(manifest), manifest.column(by))
        assert isinstance(image, ListedImage)
        keys.append(values[image.row] or None)
    without = [name for (name, _), key in zip(images, keys, strict=True) if key is None]
    if without:
        if held and by in ("label", "split", *columns):
            raise InputError(
                f"column {by!r} names no thing for {counted(len(without), 'image')} of {len(images)}, for "
                f"instance {without[0]!r}; fill the column in, or give each such image a value of its own",
                option="answer_by",
            )
        known = f"; {choices(by, sorted(columns))}" if columns else ""
        raise InputError(
            f"answer_by {by!r} names no thing for {counted(len(without), 'image')} of {len(images)}, for "
            f"instance {without[0]!r}; give a column of the list of images (.csv, .parquet), or a pattern on "
            f"the path whose group in parentheses is the thing, such as '([^/_]+)_[^/]*$'{known}",
            option="answer_by",
        )
    return [str(key) for key in keys]


def _matched(pattern: str, name: str) -> str | None:
    try:
        compiled = re.compile(pattern)
    except re.error:
        return None
    found = compiled.search(name) if compiled.groups else None
    return None if found is None else found.group(1)


def _joined(parts: Sequence[Values | None]) -> Values | None:
    given = [part for part in parts if part is not None]
    return np.concatenate(given) if given else None
