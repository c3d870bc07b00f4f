"""Where a projection of token vectors begins: at the principal directions of running text, less those of languages.

Of the training data, texts are drawn, as many of each language and source, but not of sources that are no running text:
what is searched are passages, and messages of programs lie elsewhere. The projection is the principal component
analysis of their token vectors, of unit length, after the directions were taken off that tell languages apart: the
principal ones of the means, over each language, by which the mean token vector of a translation differs from that of
its English side. Each direction may be weighted by a power of its variance.
A projection of dense vectors is square and begins at the identity.
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.errors import UsageError
from retriever.bundled import SENTENCE, TOKENS, linear
from retriever.encoder import Encoder
from retriever.training.examples import Meaning, Passage, Source
from retriever.training.recipe import Projection

LEAST = 30
"""Translations of a language of fewer than these say more of their subjects than of their language."""


class Drawn(NamedTuple):
    """Texts that a projection is fitted to.

    Attributes:
        texts: n, no two the same of one language.
        languages: (m,) of translations.
        translations: (m,) int64, their places among the texts.
        pivots: (m,) int64, the places of their English sides.
    """

    texts: list[str]
    languages: NDArray[np.str_]
    translations: NDArray[np.int64]
    pivots: NDArray[np.int64]


def draw(sources: Sequence[Source], how: Projection, seed: int) -> Drawn:
    """Draw the texts of every language of parallel text, with their English, and of every other source."""
    parallel: dict[str, dict[str, str]] = defaultdict(dict)
    others: dict[str, dict[str, None]] = defaultdict(dict)
    for source in sources:
        for example in source.examples if source.origin not in how.leave_out else ():
            if isinstance(example, Meaning):
                for language, text in example.texts:
                    parallel[language][text] = example.pivot
            else:
                text = example.text if isinstance(example, Passage) else example.positive
                others[source.origin or source.name][text] = None
    rng = random.Random(seed)
    texts: dict[str, int] = {}
    rows = []
    for language in sorted(parallel):
        known = parallel[language]
        for text in rng.sample(sorted(known), min(how.texts, len(known))):
            rows.append((language, texts.setdefault(text, len(texts)), texts.setdefault(known[text], len(texts))))
    for name in sorted(others):
        for text in rng.sample(sorted(others[name]), min(how.texts, len(others[name]))):
            texts.setdefault(text, len(texts))
    languages, translations, pivots = zip(*rows, strict=True) if rows else ((), (), ())
    return Drawn(list(texts), np.array(languages), np.array(translations, np.int64), np.array(pivots, np.int64))


def language_directions(
    means: NDArray[np.floating], languages: NDArray[np.str_], pivots: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the directions that tell languages apart, the strongest first, (L, d) orthonormal.

    Args:
        means: (m, d) of translations.
        languages: (m,) theirs; one with fewer than `LEAST` translations counts for nothing.
        pivots: (m, d) of their English sides.
    """
    moved = (means - pivots).astype(np.float64)
    often = [x for x in np.unique(languages) if (languages == x).sum() >= LEAST]
    by_language = np.array([moved[languages == x].mean(axis=0) for x in often]).reshape(-1, means.shape[1])
    directions: NDArray[np.float64] = np.linalg.svd(by_language, full_matrices=False)[2]
    return directions


def principal(
    values: NDArray[np.floating], without: NDArray[np.floating], dims: int, power: float = 0.0
) -> NDArray[np.float32]:
    """Return the first principal directions of vectors (T, d) in what is left without some, (k, d): (dims, d).

    Each is as long as the variance along it, of the first one's, to the power: 0 rotates, -.5 whitens.
    """
    left = np.eye(values.shape[1]) - without.T @ without
    centred = values - values.mean(axis=0)
    variances, directions = np.linalg.eigh(left @ (centred.T @ centred).astype(np.float64) @ left)
    variances, chosen = variances[::-1][:dims], directions[:, ::-1][:, :dims].T @ left
    signs = np.sign(chosen[np.arange(dims), np.abs(chosen).argmax(axis=1)])  # the solver's signs are arbitrary
    lengths = np.maximum(variances / variances[0], np.finfo(np.float32).eps) ** power
    return np.asarray(chosen * (signs * lengths)[:, None], np.float32)


def fit(
    model: Any,  # noqa: ANN401
    drawn: Drawn,
    how: Projection,
    on_progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return a projection of a model's token vectors, (dims, hidden).

    Args:
        model: a ``SentenceTransformer``; a projection that it has counts for nothing.
        drawn: what it is fitted to.
        how: the projection.
        on_progress: called with the number of tokens encoded in each batch.

    Raises:
        UsageError: no text is left, or the transformer has fewer dimensions.
    """
    if not drawn.texts:
        raise UsageError("[projection] leaves nothing to fit it to: shorten its leave_out")
    with tempfile.TemporaryDirectory() as folder:
        _without_projection(model).save_pretrained(folder, create_model_card=False)
        found = Encoder.load(folder).encode_documents(drawn.texts, on_progress).late
    if found is None:
        raise ValueError("a transformer gives token vectors")
    width = found.values.shape[1]
    if how.dims + how.directions > width:
        raise UsageError(f"the transformer has {width} dimensions: {how.dims} and {how.directions} are more")
    values = found.values / np.maximum(np.linalg.norm(found.values, axis=1, keepdims=True), 1e-9)
    means = np.stack([values[a:b].mean(axis=0) if b > a else np.zeros(width) for a, b in pairwise(found.offsets)])
    directions = language_directions(means[drawn.translations], drawn.languages, means[drawn.pivots])
    return principal(values, directions[: how.directions], how.dims, how.power)


def set_projection(model: Any, matrix: NDArray[np.float32]) -> None:  # noqa: ANN401
    """Give a ``SentenceTransformer`` a projection of token vectors, in the place of one that it has."""
    module, place = linear(matrix, TOKENS).to(model.device), find_projection(model, TOKENS)
    if place is None:
        model.append(module)
    else:
        model[place] = module


def begin_dense(model: Any) -> None:  # noqa: ANN401
    """Give it a square projection of dense vectors, the identity, in the place of one that it has.

    Raises:
        UsageError: it makes no dense vectors, makes them by a layer that is no projection, or its modules have names.
    """
    pooling = next((i for i, module in enumerate(model) if hasattr(module, "pooling_mode")), None)
    if pooling is None:
        raise UsageError("the base makes no dense vectors: leave dense out of [projection]")
    width = model[pooling].get_embedding_dimension()
    module, place = linear(np.eye(width), SENTENCE).to(model.device), find_projection(model, SENTENCE)
    if [name for name, _ in model.named_children()] != [str(i) for i in range(len(model))]:
        raise UsageError("the base's modules have names, and none can stand between them: leave dense out")
    if place is None:
        model.insert(pooling + 1, module)
    elif _is_square(model[place], width):
        model[place] = module
    else:
        raise UsageError("the base has a layer for dense vectors that is no square projection: leave dense out")


def _is_square(module: Any, width: int) -> bool:  # noqa: ANN401
    from torch.nn import Identity

    linear = module.linear
    plain = linear.bias is None and isinstance(module.activation_function, Identity)
    return plain and linear.weight.shape == (width, width)


def find_projection(model: Any, of: str) -> int | None:  # noqa: ANN401
    """Return the place of a projection among the modules of a ``SentenceTransformer``, or None without one."""
    found = (i for i, module in enumerate(model) if getattr(module, "module_input_name", "") == of)
    return next((i for i in found if hasattr(model[i], "linear")), None)


def _without_projection(model: Any) -> Any:  # noqa: ANN401
    from sentence_transformers import SentenceTransformer

    place = find_projection(model, TOKENS)
    modules = [module for i, module in enumerate(model) if i != place]
    return SentenceTransformer(modules=modules, prompts=model.prompts, device="cpu")
