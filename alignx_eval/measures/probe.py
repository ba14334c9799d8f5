"""How well a linear probe reads the language off sentence vectors: shrunken linear discriminant analysis,
cross-validated over groups of lines.

Range 0 to 1 (balanced accuracy: mean recall over languages); chance 1 / languages. All translations of a line are in
one fold, so the probe cannot remember content; scaling and fitting see only the training folds. Beside the accuracy
stand a control task (random labels: what is left of the accuracy is the probe's own doing; Hewitt and Liang 2019), how
well the probe can fit those random labels (its capacity), a classifier that sees only the script of the text, and the
accuracy among languages of one script. Known failures: a probe shows that the language can be read, not that the model
uses it.

The fit needs only sums and scatter matrices per fold, so folds, classes and control task share one pass over the
vectors.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

SHRINKAGE = (
    0.1  # of the within-class covariance towards a multiple of the identity; the same for every checkpoint, never tuned
)


@dataclass(frozen=True, slots=True)
class Probe:
    """Held-out predictions. L = languages, in the order given.

    predicted: int [L, lines], the language predicted for each sentence; within_script: bool [L, lines], right when only
    languages of the same script compete (None where every script has one language); control: bool [L, lines], right on
    the random labels; control_fit: share of random labels that the probe gets right on its own training data.
    """

    predicted: np.ndarray
    within_script: np.ndarray | None
    control: np.ndarray
    control_fit: float

    @property
    def correct(self) -> np.ndarray:
        """bool [L, lines]; its mean is the balanced accuracy, as every language has the same lines."""
        return self.predicted == np.arange(len(self.predicted))[:, None]


def grouped_folds(groups: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Fold of each line, int [lines] from 0, with every group (int [lines], numbered from 0) in one fold and folds of
    nearly equal size.

    There are fewer folds than `count` where there are fewer groups. Raises ValueError for fewer than 2 groups.
    """
    sizes = np.bincount(groups)
    count = min(count, len(sizes))
    if count < 2:
        raise ValueError("a probe needs at least 2 groups of lines, one to learn from and one to be tested on")
    fold_of_group = np.empty(len(sizes), dtype=np.int64)
    filled = np.zeros(count, dtype=np.int64)
    order = generator.permutation(len(sizes))
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold = int(filled.argmin())
        fold_of_group[group] = fold
        filled[fold] += sizes[group]
    return fold_of_group[groups]


def control_labels(languages: int, lines: int, generator: np.random.Generator) -> np.ndarray:
    """int [languages, lines]: random labels that are a permutation within each line, so they are as balanced as the
    real ones."""
    return generator.permuted(np.tile(np.arange(languages)[:, None], (1, lines)), axis=0)


def language_probe(vectors: np.ndarray, folds: np.ndarray, control: np.ndarray, scripts: Sequence[str]) -> Probe:
    """Cross-validated probe on vectors [languages, lines, width]; folds from `grouped_folds`, control from
    `control_labels`, a script per language.

    Raises ValueError for fewer than 2 languages and for folds, labels or scripts of another size.
    """
    languages, lines, width = vectors.shape
    if languages < 2:
        raise ValueError("a language probe needs at least 2 languages")
    if folds.shape != (lines,) or control.shape != (languages, lines) or len(scripts) != languages:
        raise ValueError("folds, control labels or scripts do not fit the vectors")
    # Only for the conditioning of float32 sums; the scaling that counts is fitted inside each fold, and undoes this
    # one.
    flat = vectors.reshape(-1, width)
    shift, spread = flat.mean(axis=0, dtype=np.float64), flat.std(axis=0, dtype=np.float64)
    # A dimension that is constant up to rounding has nothing to say; scaling must not turn its rounding errors into a
    # signal.
    live = spread > 1e-6 * np.abs(flat).max(initial=0)
    scaled = np.where(
        live, (vectors - shift.astype(np.float32)) / np.where(live, spread, 1).astype(np.float32), 0
    ).astype(np.float32)

    numbers = np.unique(folds)
    members = [np.flatnonzero(folds == number) for number in numbers]
    scatter = np.empty((len(numbers), width, width))
    sums = np.empty((2, len(numbers), languages, width))  # of the real classes and of the control classes
    one_hot = np.eye(languages, dtype=np.float32)
    for fold, test in enumerate(members):
        block = scaled[:, test].reshape(-1, width)
        scatter[fold] = block.T @ block
        sums[0, fold] = scaled[:, test].sum(axis=1, dtype=np.float64)
        sums[1, fold] = one_hot[control[:, test].reshape(-1)].T @ block
    total_scatter, total_sums = scatter.sum(axis=0), sums.sum(axis=1)

    script_ids = np.unique(np.asarray(scripts), return_inverse=True)[1]
    rival = script_ids[:, None] == script_ids[None, :]
    predicted = np.empty((languages, lines), dtype=np.int64)
    within = np.zeros((languages, lines), dtype=bool)
    control_right = np.empty((languages, lines), dtype=bool)
    fitted = []
    own = np.arange(languages)[:, None]
    for fold, test in enumerate(members):
        train = np.flatnonzero(folds != numbers[fold])
        weights, offsets = _discriminants(total_sums - sums[:, fold], total_scatter - scatter[fold], len(train))
        scores = scaled[:, test] @ weights[0] + offsets[0]  # [languages, test lines, classes]
        predicted[:, test] = scores.argmax(axis=-1)
        within[:, test] = np.where(rival[:, None, :], scores, -np.inf).argmax(axis=-1) == own
        control_right[:, test] = (scaled[:, test] @ weights[1] + offsets[1]).argmax(axis=-1) == control[:, test]
        fitted.append(((scaled[:, train] @ weights[1] + offsets[1]).argmax(axis=-1) == control[:, train]).mean())
    shared = rival.sum(axis=1) > 1
    within_script = within if shared.any() else None
    return Probe(predicted, within_script, control_right, float(np.mean(fitted)))


def _discriminants(class_sums: np.ndarray, scatter: np.ndarray, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights [tasks, width, classes] and offsets [tasks, classes] (float32) of the discriminants of several labellings
    of the same training rows.

    class_sums [tasks, classes, width] and scatter [width, width] are sums over the training rows of x and of x x^T;
    every class has `per_class` rows.
    """
    tasks, classes, width = class_sums.shape
    rows = classes * per_class
    mean = class_sums[0].sum(axis=0) / rows
    variance = np.diagonal(scatter) / rows - mean**2
    live = variance > 1e-9
    scale = np.where(live, np.sqrt(np.maximum(variance, 0)), 1)
    all_weights, all_offsets = np.zeros((tasks, width, classes)), np.zeros((tasks, classes))
    for task in range(tasks):
        means = class_sums[task] / per_class
        within = (scatter - per_class * means.T @ means) / rows / np.outer(scale, scale)
        level = np.trace(within) / width
        if not level > 1e-5:
            # No spread within classes beyond rounding (all of it has variance 1): the plain nearest mean decides.
            level, within = 1.0, np.zeros((width, width))
        within *= 1 - SHRINKAGE
        within[np.diag_indices(width)] += SHRINKAGE * level
        centred = (means - mean) / scale
        directions = scipy.linalg.solve(within, centred.T, assume_a="pos", check_finite=False)  # [width, classes]
        all_weights[task] = directions / scale[:, None]
        all_offsets[task] = -0.5 * np.einsum("cw,wc->c", centred, directions) - mean @ all_weights[task]
    return all_weights.astype(np.float32), all_offsets.astype(np.float32)


def dominant_script(text: str) -> str:
    """The most frequent script among the letters of `text`, as the first word of their Unicode names ("LATIN", "CJK");
    "" without letters."""
    names = Counter(
        unicodedata.name(character, "").split(" ")[0].split("-")[0] for character in text if character.isalpha()
    )
    return names.most_common(1)[0][0] if names else ""


def script_only(texts: Sequence[Sequence[str]], folds: np.ndarray) -> np.ndarray:
    """bool [languages, lines]: right guesses of a classifier that sees only each text's dominant script, trained on the
    same folds.

    It predicts the language that the script had most often in training (the first such language on a tie).
    """
    scripts = np.array([[dominant_script(text) for text in lines] for lines in texts])
    right = np.zeros(scripts.shape, dtype=bool)
    for fold in np.unique(folds):
        test, train = folds == fold, folds != fold
        for script in np.unique(scripts[:, test]):
            guess = int((scripts[:, train] == script).sum(axis=1).argmax())
            right[guess, test] |= scripts[guess, test] == script
    return right


def confusion(predicted: np.ndarray) -> np.ndarray:
    """int [languages, languages]: how often sentences of the row's language were taken for the column's."""
    languages = len(predicted)
    return np.stack([np.bincount(row, minlength=languages) for row in predicted])
