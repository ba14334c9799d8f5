"""Pictures of a layer's sentence vectors: projections and maps of all pairs. Never an input of a gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine.encode import CorpusVectors

POINTS_PER_LANGUAGE, POINTS = 40, 1000  # of a picture
NEIGHBOURS = 15  # of UMAP, and of the trustworthiness beside it
FEWEST_POINTS = 100  # below, the neighbours are most of the picture, and PCA shows all there is


def shown_layers(vectors: CorpusVectors, align_layer: int | None) -> list[str]:
    """Three layers for pictures: the first, the one of alignment (else the middle one), the last. Not the peak:
    pictures of checkpoints that are compared should be of the same layers."""
    names = vectors.layer_names
    middle = str(align_layer)
    return list(dict.fromkeys((names[0], middle if middle in names else str((len(names) - 2) // 2), names[-2])))


def pairs(all_pairs: dict[str, np.ndarray], corpus: ParallelCorpus) -> dict[str, list[Any]]:
    """Debiased CKA of every two languages at every layer, as columns of equal length; None where undefined."""
    columns: dict[str, list[Any]] = {"layer": [], "language": [], "other_language": [], "cka_debiased": []}
    upper = np.triu_indices(len(corpus.languages), 1)
    for layer, table in all_pairs.items():
        columns["layer"] += [layer] * len(upper[0])
        columns["language"] += [corpus.languages[row] for row in upper[0]]
        columns["other_language"] += [corpus.languages[column] for column in upper[1]]
        columns["cka_debiased"] += [float(value) if np.isfinite(value) else None for value in table[upper]]
    return columns


def maps(all_pairs: dict[str, np.ndarray], corpus: ParallelCorpus, layers: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "metric": "cka_debiased",
            "layer": layer,
            "languages": list(corpus.languages),
            "values": [
                [round(float(value), 3) if np.isfinite(value) else None for value in row] for row in all_pairs[layer]
            ],
        }
        for layer in layers
    ]


def projections(
    vectors: CorpusVectors, corpus: ParallelCorpus, layers: Sequence[str], seed: int, notes: list[str]
) -> list[dict[str, Any]]:
    """PCA and UMAP of all languages together at a few layers, the same lines of every language; never an input of a
    number.

    PCA is of all lines and shows some; UMAP is of those shown. What could not be drawn is added to `notes`.
    """
    count = max(1, min(POINTS_PER_LANGUAGE, POINTS // len(corpus.languages)))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(corpus))[:count])
    projections = []
    for layer in layers:
        stack = vectors.layer(layer)
        shown = {
            "layer": layer,
            "languages": [language for language in corpus.languages for _ in chosen],
            "lines": [corpus.ids[line] for _ in corpus.languages for line in chosen],
            "seed": seed,
            "n": len(corpus),
        }
        points, explained = principal_components(stack, chosen)
        variance = [round(float(share), 4) for share in explained]
        projections.append(
            {"method": "pca", **shown, "points": points.round(3).tolist(), "explained_variance": variance}
        )
        flat = stack[:, chosen].reshape(-1, stack.shape[2])
        if len(flat) >= FEWEST_POINTS and len(np.unique(flat, axis=0)) > NEIGHBOURS:
            try:
                points, kept = neighbour_map(flat, seed)
            except Exception as error:  # noqa: BLE001  a picture must never cost the numbers (numba, for one, needs a folder to write to)
                notes.append(f"no UMAP of layer {layer}: {' '.join(str(error).split())[:200]}")
                continue
            projections.append(
                {
                    "method": "umap",
                    **shown,
                    "points": points.round(2).tolist(),
                    "trustworthiness": round(kept, 3),
                    "neighbours": NEIGHBOURS,
                }
            )
    return projections


def neighbour_map(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """UMAP of vectors [points, width] by cosine -> points [points, 2], and its trustworthiness (Venna and Kaski 2001),
    0 to 1.

    Coordinates repeat on one machine with one seed, not across machines: they are for the eye only.
    """
    import warnings

    import torch
    from sklearn.manifold import trustworthiness

    threads = torch.get_num_threads()  # numba sets them anew, and with them the last bits of the next forward pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a seed makes it run on one core, which it warns about
            from umap import UMAP

            points = UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=seed, n_jobs=1).fit_transform(vectors)
    finally:
        torch.set_num_threads(threads)
    points = np.nan_to_num(points)  # points without any neighbour in common with others have no place
    return points, float(trustworthiness(vectors, points, n_neighbors=NEIGHBOURS, metric="cosine"))


def principal_components(stack: np.ndarray, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First two principal components of all sentences of stack [languages, lines, width].

    Returns the points [languages * chosen lines, 2] of the given lines, language by language, scaled so that the first
    component has standard deviation 1, and the share of variance [2] that each explains. The sign is fixed (the largest
    weight is positive), so pictures repeat.
    """
    from sklearn.decomposition import PCA

    languages, _, width = stack.shape
    # Centred here, with a mean in double precision: that of a layer may be far from 0. The vectors stay float32.
    centred = stack - stack.reshape(-1, width).mean(axis=0, dtype=np.float64).astype(stack.dtype)
    if width < 2 or not np.vdot(centred, centred) > 0:
        return np.zeros((languages * len(lines), 2)), np.zeros(2)
    shown = centred[:, lines].reshape(-1, width)
    flat = centred.reshape(-1, width)
    model = PCA(2, svd_solver="covariance_eigh").fit(flat)
    deviation = np.sqrt(model.explained_variance_[0] * (len(flat) - 1) / len(flat))
    return model.transform(shown).astype(np.float64) / deviation, model.explained_variance_ratio_
