"""Encoders: text in, vectors out, for both vector views from one forward pass.

Any Sentence Transformers checkpoint serves, by name or folder. A ``SentenceTransformer`` gives a sentence vector and
its token vectors (projected where the checkpoint has a token-level ``Dense``), a ``MultiVectorEncoder``, which also
reads ColBERT and PyLate checkpoints, gives token vectors alone. All vectors come out with unit length.

Which tokens count in late interaction: a MultiVectorEncoder says so itself. For a SentenceTransformer the prompt and
the special tokens are left out, the one for unknown characters among them: they say nothing of the text and match each
other in every pair. On XQuAD-R that is worth .482 -> .526 mAP.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import EncoderError, UsageError
from index.centroids import Prior
from index.ragged import Ragged
from index.segment import VECTOR_VIEWS, Vectors
from retriever.backends import BACKENDS, EXTRAS, Loaded, load_model
from retriever.bundled import DEFAULT, SHIPPED, be_quiet, bundled_model
from retriever.language import identifier
from retriever.tokenized import Adapted, Tokenized, tokenize

QUERIES_CACHED = 16384
# Longer queries are not kept: 1024 of 10,000 characters could hold 4 GB of token vectors, of 500 about 200 MB.
CHARACTERS_CACHED = 500
# Tokens that are pooled together at most, for the time and the memory of clustering grow with their square.
POOLED = 512
# What different arithmetics are compared by: as many dimensions of each kind of vector of this text.
PROBE, PROBED = "A coral reef turns white. 海水变暖时珊瑚会变白。 Коралловый риф белеет.", 16
# How much a window counts in a text's dense vector beside the one before it: a text says early what it is about.
# SciFact's nDCG@10, where 731 of 5,183 abstracts have several windows: 1 gives .655, .5 .657, the first alone .660, but
# that would leave the rest of the text out (Recall@100 .914, .917 and .911).
DECAY = 0.5
# PyTorch's number of threads before it was limited, and a 1 for each encoder that limits it now.
_LIMITED: list[int] = []
_THREADS = threading.Lock()


class _Encoded(NamedTuple):
    dense: NDArray[np.float32] | None  # (d,)
    late: NDArray[np.float32]  # (T, d)


class Encoder:
    """A loaded model. Many threads may use it; a batch at a time runs, and queries pass between batches."""

    def __init__(
        self,
        loaded: Loaded,
        name: str,
        *,
        batch_size: int | None = None,
        token_pooling: float = 1.0,
        priors: Mapping[str, Prior] | None = None,
    ) -> None:
        """Wrap a loaded ``SentenceTransformer`` or ``MultiVectorEncoder``.

        Args:
            loaded: the model, in evaluation mode.
            name: what it was loaded as; it is kept in the fingerprint, for people.
            batch_size: windows in one forward pass at most; None for as many as are fastest.
            token_pooling: keep one token vector of a document for so many: the means of clusters of like ones.
            priors: the language centroids that ship with the model, by view.
        """
        self._model = model = loaded.model
        self._name = name
        self._batch_size = batch_size
        self._tokens, self._packed = loaded.tokens, loaded.packed
        self._adapters = loaded.adapters
        self._token_pooling = float(token_pooling)
        self._multi_vector = type(model).__name__ == "MultiVectorEncoder"
        self._special = torch.tensor(sorted(model.tokenizer.all_special_ids), dtype=torch.int64)
        self._prompted = {task: self._prompt_tokens(task) for task in ("query", "document")}
        self._lock = threading.Lock()  # of the model
        self._tokenizing = threading.Lock()
        self._cache: OrderedDict[Adapted, _Encoded] = OrderedDict()
        probe = self._probe("a")
        self.dims: Mapping[str, int] = {"late": probe.late.shape[1]}
        if probe.dense is not None:
            self.dims = {"dense": len(probe.dense), "late": probe.late.shape[1]}
        self.fingerprint: Mapping[str, Any] = self._fingerprint(loaded)
        self.priors: Mapping[str, Prior] = priors or {}

    @classmethod
    def load(
        cls,
        name: str = DEFAULT,
        *,
        backend: str | None = None,
        device: str = "cpu",
        batch_size: int | None = None,
        token_pooling: float = 1.0,
    ) -> Encoder:
        """Load a model by the name of a bundled one, a local folder, or a name on the Hugging Face Hub.

        Args:
            name: which one.
            backend: what computes it, see `retriever.backends`; None for what is best here.
            device: as PyTorch names it.
            batch_size: windows in one forward pass at most; None for as many as are fastest.
            token_pooling: see the constructor.

        Raises:
            EncoderError: no such model, no network, a broken folder, or a backend that is not installed.
            UsageError: token pooling below 1, or no such device.
        """
        if backend not in (None, *BACKENDS):
            raise EncoderError(f"unknown backend {backend!r}: choose from {', '.join(BACKENDS)}")
        if not _is_here(device):
            raise UsageError(f"there is no device {device!r} here: leave --device out, or see what PyTorch finds")
        if not 1 <= token_pooling < math.inf:
            raise UsageError(f"token pooling keeps one vector for so many, a number from 1 on, not {token_pooling}")
        be_quiet()
        source = str(bundled_model(name)) if name in SHIPPED else name
        try:
            if name not in SHIPPED and Path(name).is_dir():
                name = str(Path(name).resolve())  # the fingerprint is read again in another working folder
            loaded = load_model(source, device, backend)
            priors = _priors(Path(source))
            return cls(loaded, name, batch_size=batch_size, token_pooling=token_pooling, priors=priors)
        except Exception as error:  # safetensors, tokenizers and Sentence Transformers raise bare Exceptions too
            if isinstance(error, ImportError) and backend in EXTRAS:
                advice = f"pip install 'polyseek[{EXTRAS[backend]}]'"
                raise EncoderError(f"the backend {backend!r} is not installed: {advice}") from error
            why = " ".join(str(error).split())[:300].rstrip(".")
            raise EncoderError(
                f"cannot load the encoder {name[:100]!r}: {why or type(error).__name__}. Give {' or '.join(SHIPPED)}, "
                "a model folder, or a name on the Hugging Face Hub (which needs a network)"
            ) from error

    def encode_documents(self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None) -> Vectors:
        """Tokenize and encode texts: :meth:`tokenize`, then :meth:`encode`."""
        return self.encode(self.tokenize(texts), on_progress)

    def tokenize(self, texts: Sequence[str], languages: Sequence[str] | None = None) -> Tokenized:
        """Make tokens of documents, whole: a text longer than the model takes is split into windows.

        Args:
            texts: n texts.
            languages: of each, normalised, for a model with adapters; None to have them identified.
        """
        return self._tokenize(self._adapted(texts, languages), "document")

    def encode(self, tokenized: Tokenized, on_progress: Callable[[int], None] | None = None) -> Vectors:
        """Encode documents.

        The dense vector of several windows is their mean at unit length again, each window weighted by its tokens and
        half as much as the one before (see :data:`DECAY`). Their token vectors stand one after another, and are pooled
        where that was asked for.

        Args:
            tokenized: n texts, as :meth:`tokenize` makes them.
            on_progress: called with the number of tokens done in each batch.

        Returns:
            dense (n, d) float32 or None, late Ragged of float32.
        """
        encoded = self._encode(tokenized, "document", on_progress)
        _give_back()
        if self._token_pooling > 1:
            encoded = [_Encoded(one.dense, self._pooled(one.late)) for one in encoded]
        return self._gather([encoded[owner] for owner in tokenized.owners])

    def encode_queries(self, texts: Sequence[str], languages: Sequence[str] | None = None) -> Vectors:
        """Encode queries as :meth:`tokenize` and :meth:`encode` do documents, with their prompt; recent ones are kept.

        An empty query has a dense vector of zeros and no token vectors.
        """
        given = self._adapted(texts, languages)
        wanted = list(dict.fromkeys(given))
        with self._lock:
            known = {one: self._cache[one] for one in wanted if one in self._cache}
        fresh = [one for one in wanted if one not in known]
        known |= dict(zip(fresh, self._encode(self._tokenize(fresh, "query"), "query"), strict=True))
        with self._lock:
            for one in wanted:
                if len(one.text) <= CHARACTERS_CACHED:
                    self._cache[one] = known[one]
                    self._cache.move_to_end(one)
            while len(self._cache) > QUERIES_CACHED:
                self._cache.popitem(last=False)
        return self._gather([known[one] for one in given])

    def forget(self, texts: Sequence[str]) -> None:
        """Drop queries from those that are kept, so that timing them again counts their encoding."""
        with self._lock:
            for one in [one for one in self._cache if one.text in texts]:
                del self._cache[one]

    def _adapted(self, texts: Sequence[str], languages: Sequence[str] | None) -> list[Adapted]:
        if self._adapters.names and languages is None:
            languages = identifier().identify(texts)
        adapters = self._adapters.of(languages or [""] * len(texts))
        return [Adapted(*one) for one in zip(texts, adapters, strict=True)]

    def _tokenize(self, texts: Sequence[Adapted], task: str) -> Tokenized:
        with self._tokenizing:
            return tokenize(texts, self._model, task=task, prompt=self._prompt(task), limit=self._limit(task))

    def _encode(
        self, tokenized: Tokenized, task: str, on_progress: Callable[[int], None] | None = None
    ) -> list[_Encoded]:
        """Encode each of the texts that differ: windows of all texts, sorted by length, in batches."""
        encoded: dict[int, _Encoded] = {}
        for batch in tokenized.batches(self._tokens, self._batch_size, fills=self._packed < self._tokens):
            features = tokenized.features(batch, self._model.tokenizer)
            adapter = tokenized.windows[batch[0]].adapter
            encoded.update(zip(batch, self._forward(features, task, adapter), strict=True))
            if on_progress:
                on_progress(sum(tokenized.windows[w].tokens for w in batch))
        owned: list[list[_Encoded]] = [[] for _ in range(tokenized.differing)]
        for w, window in enumerate(tokenized.windows):
            owned[window.text].append(encoded[w])
        return [self._join(parts) for parts in owned]

    def _forward(self, features: dict[str, Any], task: str, adapter: str) -> list[_Encoded]:
        """Run one batch through the model."""
        ids = features["input_ids"]
        few = ids.numel() <= self._packed
        with self._lock, torch.inference_mode(), _one_thread() if few else nullcontext():
            self._adapters.use(adapter)
            features = {k: v.to(self._model.device) if hasattr(v, "to") else v for k, v in features.items()}
            features = self._model(features, task=task)
        mask = features["attention_mask"].bool().cpu()
        if not self._multi_vector:  # neither special tokens nor the prompt before the text
            ordinary = ~torch.isin(ids, self._special)
            mask &= ordinary & (ordinary.cumsum(dim=1) > self._prompted[task])
        tokens = torch.nn.functional.normalize(features["token_embeddings"].float(), dim=-1).cpu()
        dense = features.get("sentence_embedding")
        if dense is not None:
            dense = torch.nn.functional.normalize(dense.float(), dim=-1).cpu().numpy()
        # One array for all: a copy for each text would lie between what the next forward passes ask for and give back.
        late = np.split(tokens[mask].numpy(), mask.sum(dim=1).cumsum(dim=0)[:-1].numpy())
        return [_Encoded(None if dense is None else dense[i], late[i]) for i in range(len(ids))]

    def _prompt_tokens(self, task: str) -> int:
        """Return how many tokens the prompt has; the blank that ends it is part of the text's first piece."""
        tokens = self._model.tokenizer(self._prompt(task).rstrip(), add_special_tokens=False)["input_ids"]
        return int((~torch.isin(torch.tensor(tokens, dtype=torch.int64), self._special)).sum())

    def _join(self, parts: Sequence[_Encoded]) -> _Encoded:
        """Make one text of its windows."""
        if not parts:
            dims = self.dims
            return _Encoded(np.zeros(dims["dense"], np.float32) if "dense" in dims else None,
                            np.zeros((0, dims["late"]), np.float32))  # fmt: skip
        if len(parts) == 1:
            return parts[0]
        late = np.concatenate([part.late for part in parts])
        vectors = [part.dense for part in parts if part.dense is not None]
        if not vectors:
            return _Encoded(None, late)
        weights = [max(len(part.late), 1) * DECAY**i for i, part in enumerate(parts)]
        mean = np.average(vectors, axis=0, weights=weights)
        return _Encoded((mean / np.linalg.norm(mean)).astype(np.float32), late)

    def _pooled(self, late: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return fewer token vectors: means of Ward's clusters (Clavié, Chaffin and Adams 2024).

        Vectors that are not finite stay as they are, to be refused where they are stored.
        """
        if not np.isfinite(late).all():
            return late
        from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

        pooling = HierarchicalTokenPooling(self._token_pooling, num_protected_tokens=0)
        parts = (torch.from_numpy(late[at : at + POOLED]) for at in range(0, len(late), POOLED))
        return np.concatenate([late[:0], *(pooling.pool_one(part).numpy() for part in parts)])

    def _gather(self, encoded: Sequence[_Encoded]) -> Vectors:
        dense = None
        if "dense" in self.dims:
            vectors = [e.dense for e in encoded if e.dense is not None]
            dense = np.stack(vectors) if vectors else np.zeros((0, self.dims["dense"]), np.float32)
        return Vectors(dense, Ragged.of([e.late for e in encoded], self.dims["late"]))

    def _prompt(self, task: str) -> str:
        prompts = self._model.prompts
        names = ("query",) if task == "query" else ("document", "passage", "corpus")
        return next((prompts[name] for name in names if prompts.get(name)), "")

    def _limit(self, task: str) -> int:
        """Return how many tokens the model takes, prompt and special tokens included."""
        transformer = self._model[0]
        own = getattr(transformer, "query_length" if task == "query" else "document_length", None)
        expansion = getattr(transformer, "query_expansion", None) if task == "query" else None
        if expansion and expansion["strategy"] == "fixed":  # ColBERT's: every query is filled up, or cut, to one length
            own = expansion["length"]
        return int(own or self._model.max_seq_length or 512)

    def _probe(self, text: str) -> _Encoded:
        return self._encode(self._tokenize(self._adapted([text], [""]), "document"), "document")[0]

    def _fingerprint(self, loaded: Loaded) -> dict[str, Any]:
        probe = self._probe(PROBE)
        parts = [vector[:PROBED] for vector in (probe.dense, probe.late.mean(axis=0)) if vector is not None]
        return {
            "model": self._name,
            "weights": loaded.weights,
            "arithmetic": loaded.arithmetic,
            "probe": [round(float(x), 5) for x in np.concatenate(parts)],
            "dims": dict(self.dims),
            "pooling": ", ".join(str(m.pooling_mode) for m in self._model if hasattr(m, "pooling_mode")),
            "prompts": {task: self._prompt(task) for task in ("query", "document")},
            "lengths": {task: self._limit(task) for task in ("query", "document")},
            "token_pooling": self._token_pooling,
        }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch compute in one thread.

    Those of its pool look for more work for milliseconds, on cores that Polyseek's own threads want: 13 ms for a
    question that takes 7.
    """
    with _THREADS:
        if not _LIMITED:
            _LIMITED.append(torch.get_num_threads())
            torch.set_num_threads(1)
        _LIMITED.append(1)
    try:
        yield
    finally:
        with _THREADS:  # of several encoders the last one to leave
            _LIMITED.pop()
            if len(_LIMITED) == 1:
                torch.set_num_threads(_LIMITED.pop())


def _give_back() -> None:
    """Give free memory back to the system.

    The C library of Linux keeps what the batches of a build, each of another shape, leave between what is in use: with
    PyTorch in bfloat16 it grew by 50 MB with every thousand documents.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries than GNU's have none
        if trim is not None:
            trim(0)


def _is_here(device: str) -> bool:
    """Return whether PyTorch can compute on a device."""
    try:
        torch.zeros(1, device=device)
    except Exception:  # what is raised differs from device to device
        return False
    return True


def _priors(folder: Path) -> dict[str, Prior]:
    """Read the centroids in a checkpoint's folder ``polyseek``, where `retriever.training.calibrate` put some."""
    path = folder / "polyseek" / "centroids.json"
    if not path.exists():
        return {}
    languages = tuple(json.loads(path.read_text(encoding="utf-8"))["languages"])
    return {view: Prior(languages, np.load(path.with_name(f"centroids.{view}.npy"))) for view in VECTOR_VIEWS}
