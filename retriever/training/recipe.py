"""A recipe: everything that decides what a training makes, in one TOML file."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from data.errors import InputError, NotFoundError
from index.storage import checksum
from retriever.bundled import DEFAULT
from retriever.training.batches import Mixing
from retriever.training.cropping import Cropping
from retriever.training.losses import Contrast
from retriever.training.moco import Moco

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Data:
    """A file or folder to train on.

    Attributes:
        path: relative to the recipe.
        leave_out: values of "source" whose rows are left out.
        weight: its sources are drawn so many times as often as their sizes would have it, among those of their kind.
        kind: "text" for raw text whatever its form, the corpus of a BEIR folder among them; "" to tell by the form.
    """

    path: str
    leave_out: tuple[str, ...] = ()
    weight: float = 1.0
    kind: str = ""

    def __post_init__(self) -> None:
        """Refuse other kinds, and what is never drawn."""
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight = {self.weight} should be above 0")
        if self.kind not in ("", "text"):
            raise ValueError(f'kind = {self.kind!r} should be "text", or left out')


@dataclass(frozen=True, slots=True)
class Dev:
    """What is ranked at every evaluation.

    Attributes:
        path: a BEIR folder, relative to the recipe.
        split: of its judgements.
        queries: drawn of those that are judged.
        documents: what they are looked for in: those judged relevant, and as many others as are missing to that.
    """

    path: str
    split: str = "test"
    queries: int = 200
    documents: int = 2000

    def __post_init__(self) -> None:
        """Refuse to rank nothing."""
        if min(self.queries, self.documents) < 1:
            raise ValueError("a [dev] has at least one query and one document")


@dataclass(frozen=True, slots=True)
class Projection:
    """New projections in the place of the base's, see `retriever.training.projection`.

    Attributes:
        dense: dense vectors get one too, square, the identity when the training begins.
        dims: of token vectors.
        directions: that tell languages apart and are taken off.
        power: of its variance, by which each direction is weighted: 0 leaves them as they are, -.5 whitens.
        texts: of each language of parallel text, and of each other source, that it is fitted to.
        leave_out: values of "source" whose texts are no running text: messages of programs, headings.
    """

    dense: bool = False
    dims: int = 128
    directions: int = 4
    power: float = 0.0
    texts: int = 100
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse to fit to nothing."""
        if min(self.dims, self.texts) < 1 or self.directions < 0:
            raise ValueError("a [projection] has dims and texts of 1 or more, and directions of 0 or more")
        if not -0.5 <= self.power <= 0:
            raise ValueError("the power of a [projection] is from -0.5, which whitens, to 0")


@dataclass(frozen=True, slots=True)
class Optimizing:
    """How weights move.

    Attributes:
        steps: batches.
        learning_rate: at its highest, after ``warmup`` steps; it falls to 0 along half a cosine.
        projection_rate: that of modules after the transformer.
        warmup: steps.
        lora_rank: of the adapters on every linear layer; 0 trains all weights but the embeddings.
        projection_only: the transformer stands still, and only modules after it learn; ``lora_rank`` is of no effect.
        tokens: texts are cut to so many.
        mini_batch: texts in one forward pass, with GradCache; 0 for all without.
        bf16: forward and backward passes in bfloat16.
        save_every: steps between checkpoints, and between evaluations.
        patience: evaluations without a better one before it stops, and the best one is kept; 0 never stops.
    """

    steps: int = 1000
    learning_rate: float = 3e-4
    projection_rate: float = 1e-3
    warmup: int = 50
    lora_rank: int = 64
    projection_only: bool = False
    tokens: int = 128
    mini_batch: int = 0
    bf16: bool = True
    save_every: int = 100
    patience: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a training makes.

    Attributes:
        data: what is read.
        base: an encoder's name or folder.
        seed: of batches and new weights.
        held_out: batches that are evaluated, of examples that are not trained on: one of 20 of each source.
        language: of X-MOD's adapters the one that is on while all of them stand still; for another base, what is
            learned is an adapter of this language alone, which is put beside the model; "" trains for all languages.
        dev: judged queries that are ranked at each evaluation; None for the held-out loss alone.
        apart: BEIR folders whose text must not be in the data.
        mixing, cropping, contrast, optimizing: see there.
        moco: a queue of passages; None for none.
        projection: what vectors are projected by when the training begins; None for the base's own.
    """

    data: tuple[Data, ...]
    base: str = DEFAULT
    seed: int = 0
    held_out: int = 8
    language: str = ""
    apart: tuple[str, ...] = ()
    mixing: Mixing = field(default_factory=Mixing)
    cropping: Cropping = field(default_factory=Cropping)
    contrast: Contrast = field(default_factory=Contrast)
    optimizing: Optimizing = field(default_factory=Optimizing)
    moco: Moco | None = None
    projection: Projection | None = None
    dev: Dev | None = None

    def __post_init__(self) -> None:
        """Refuse to wait for what is not measured, and to tell apart what means the same."""
        if self.optimizing.patience and not (self.dev or self.held_out):
            raise ValueError("patience needs something to go by: a [dev], or held_out")
        contrast = self.contrast
        if not (contrast.pairs or contrast.taught or contrast.lists):
            raise ValueError("pairs = 0 leaves nothing to learn: add distil, anchor, hold, keep or lists")
        dense = self.projection is not None and self.projection.dense
        if self.optimizing.projection_only and (self.language or (not dense and "dense" in contrast.objectives)):
            raise ValueError(
                "projection_only moves no adapter, and dense vectors where they have a projection: no language, and "
                'objectives = ["late"], or dense = true in [projection]'
            )
        if dense and "dense" not in contrast.objectives:
            raise ValueError("a projection of dense vectors learns by the objective dense: add it")
        if self.moco is not None and not contrast.pairs:
            raise ValueError("pairs = 0 leaves the queue of [moco] without use: leave one of them out")
        if self.mixing.versions > 1 and contrast.pairs:
            raise ValueError("versions of a meaning would be wrong answers to each other: pairs = 0, or one version")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; paths in it are taken from where it lies.

    Raises:
        NotFoundError: no such file.
        InputError: no TOML, an unknown key, or a value of another type.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist: give a recipe") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is no recipe: {error}") from error
    try:
        parts = {
            "mixing": Mixing, "cropping": Cropping, "contrast": Contrast, "optimizing": Optimizing, "moco": Moco,
            "projection": Projection,
        }  # fmt: skip
        own: dict[str, Any] = {
            key: _filled(parts[key], value) if key in parts else value for key, value in told.items() if key != "data"
        }
        rows = told.get("data", [])
        if not rows:
            raise TypeError("there is no [[data]]")
        own["data"] = tuple(_filled(Data, {**row, "path": str(path.parent / row["path"])}) for row in rows)
        if "dev" in told:
            if not isinstance(told["dev"], dict) or not isinstance(told["dev"].get("path"), str):
                raise TypeError('[dev] is a table with the path of a BEIR folder: path = "folder"')
            own["dev"] = _filled(Dev, {**told["dev"], "path": str(path.parent / told["dev"]["path"])})
        own["apart"] = [str(path.parent / folder) for folder in own.get("apart", ())]
        return _filled(Recipe, own)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error


def made_of(recipe: Recipe) -> dict[str, Any]:
    """Return what a training can be told by: ``{"recipe", "data": [{file: digest}], "versions": {package: version}}``.

    ``data`` has the files of each ``[[data]]``. Paths are names of files, and of folders with the files in them: nobody
    else has this machine's folders.
    """
    told = asdict(recipe)
    digests = []
    for data in told["data"]:
        path = Path(data["path"])
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        digests.append({str(file.relative_to(path.parent)): checksum(file) for file in files})
        data["path"] = path.name
    told["apart"] = [Path(folder).name for folder in recipe.apart]
    if recipe.dev:
        told["dev"]["path"] = Path(recipe.dev.path).name
    packages = ("torch", "transformers", "sentence-transformers", "peft", "accelerate")
    versions = {name: version(name) for name in packages}
    return json.loads(json.dumps({"recipe": told, "data": digests, "versions": versions}))  # type: ignore[no-any-return]


def _filled(kind: type[T], values: dict[str, Any]) -> T:
    """Make a dataclass of a table, with the types that its defaults have."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        raise TypeError(f"unknown key {unknown[0]!r}: {kind.__name__.lower()} has {', '.join(known)}")
    made = {}
    for name, value in values.items():
        default = known[name].default
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if isinstance(value, list):
            value = tuple(value)
        if isinstance(default, int | float | str | tuple) and type(value) is not type(default):
            raise TypeError(f"{name} = {value!r} should be a {type(default).__name__}")
        made[name] = value
    return kind(**made)
