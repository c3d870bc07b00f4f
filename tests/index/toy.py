"""A tiny real encoder, tiny documents, and what one asks of a collection to compare it with another."""

import hashlib
import random
import re
import time
from pathlib import Path

import numpy as np

from data.records import Document
from index.adding import Writing
from index.analysis import terms
from index.centroids import Prior
from index.collection import Collection
from index.manifest import Manifest
from index.ragged import Ragged
from index.segment import VIEWS, Vectors
from index.snapshot import Snapshot, files

DIMS = 16
WORDS = {
    "de": "der Hund die Katze das Haus ein Baum schnell über Straße und grün".split(),
    "en": "the dog a cat house tree quickly over street and green".split(),
    "sw": "mbwa paka nyumba mti haraka juu ya barabara na kijani".split(),
    "th": ["สุนัข", "แมว", "บ้าน", "ต้นไม้", "ถนน"],
    "ar": ["كلب", "قطة", "بيت", "شجرة", "شارع"],
}


class ToyEncoder:
    """A unit vector for every word, drawn from the word's hash: dense is their mean, late is one for each."""

    def __init__(self, *, revision="1", priors=None, seconds=0.0):
        self.fingerprint = {
            "model": "toy",
            "revision": revision,
            "weights": "none",
            "arithmetic": "float32",
            "probe": [1.0, 0.0],
            "dims": {"dense": DIMS, "late": DIMS},
            "prompts": {"query": "", "document": ""},
            "lengths": {"document": 512, "query": 512},
        }
        self.dims = {"dense": DIMS, "late": DIMS}
        self.priors = priors or {}
        self._seconds = seconds

    def encode_documents(self, texts):
        return self.encode(self.tokenize(texts))

    def tokenize(self, texts, languages=()):
        return Words([re.findall(r"\S+", text.casefold()) for text in texts])

    def encode(self, tokenized, on_progress=None):
        time.sleep(self._seconds * len(tokenized.words))
        words = tokenized.words
        vectors = [np.stack([word_vector(w) for w in ws]) if ws else np.zeros((0, DIMS), np.float32) for ws in words]
        if on_progress:
            on_progress(tokenized.tokens)
        means = [unit(v.mean(axis=0)) if len(v) else np.zeros(DIMS, np.float32) for v in vectors]
        return Vectors(np.stack(means).astype(np.float32), Ragged.of(vectors, DIMS))


class Words:
    """What the toy encoder takes: the words of each text, those of more than five in windows, so to speak."""

    def __init__(self, words):
        self.words = words
        self.tokens = sum(map(len, words))
        self.split = sum(len(ws) > 5 for ws in words)


def unit(vector):
    return vector / max(np.linalg.norm(vector), 1e-12)


def word_vector(word):
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
    return unit(np.random.default_rng(seed).standard_normal(DIMS)).astype(np.float32)


def unit_rows(rng, count, dims=DIMS):
    rows = rng.standard_normal((count, dims))
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def identify(texts):
    """Know Thai and Arabic by their letters and nothing else."""
    return ["th" if re.search("[ก-๛]", t) else "ar" if re.search("[ء-ي]", t) else "" for t in texts]


def prior(seed=0, languages=("de", "en", "fr")):
    return Prior(tuple(languages), unit_rows(np.random.default_rng(seed), len(languages)) * np.float32(0.5))


def documents(count, *, seed=0, languages=tuple(WORDS), prefix="d"):
    """Make documents of three to nine words, each in one of the languages."""
    draw = random.Random(seed)
    made = []
    for i in range(count):
        lang = draw.choice(languages)
        made.append(Document(f"{prefix}{i:04d}", " ".join(draw.choices(WORDS[lang], k=draw.randint(3, 9))), lang=lang))
    return made


def build(folder, given, *, views=VIEWS, encoder=None, atomic=False):
    """Make a collection of documents and open it."""
    encoder = encoder or ToyEncoder()
    collection = Collection.create(folder, views, encoder)
    collection.add(given, Writing(encoder, identify, atomic=atomic))
    return Snapshot.open(folder)


def take_steps(folder, steps, count, *, first, added, deleted):
    """Build a collection of the ``first`` of ``count`` documents, do the steps, and return what is live.

    Args:
        folder: where to.
        steps: ("add", "delete" or "compact", where among the documents).
        count: of the documents there are.
        first: documents to begin with.
        added: documents in each add.
        deleted: documents in each delete.
    """
    pool = documents(count)
    live = {d.id: d for d in pool[:first]}
    build(folder, list(live.values()))
    collection = Collection(folder)
    for step, at in steps:
        if step == "add":
            new = pool[at * count // 60 :][:added]
            collection.add(new, Writing(ToyEncoder(), identify))
            live |= {d.id: d for d in new}
        elif step == "delete":
            gone = list(live)[at : at + deleted]
            collection.delete(gone)
            live = {x: d for x, d in live.items() if x not in gone}
        else:
            collection.compact()
    assert collection.verify() == []
    return list(live.values())


QUERIES = [("der grüne Hund", "de"), ("a cat and a dog", "en"), ("สุนัข แมว", "th"), ("mbwa", ""), ("le chien", "fr")]


def hits(snapshot, *, k=10, within=None):
    """Return what every view answers to some queries: [(id, score), ...] by view, switch and query."""
    vectors = ToyEncoder().encode_documents([text for text, _ in QUERIES])
    languages = [language for _, language in QUERIES]
    rows = None if within is None else [within] * len(QUERIES)
    answers = {"bm25": snapshot.bm25.search([terms(t, x) for t, x in QUERIES], k, within=rows)}
    for neutral in (True, False):
        told = {"neutral": neutral, "within": rows}
        answers[f"dense {neutral}"] = snapshot.dense.search(vectors.dense, languages, k, **told)
        answers[f"late {neutral}"] = snapshot.late.search(vectors.late, languages, k, **told)
    return {
        (view, QUERIES[i][0]): [(x, float(s)) for x, s in zip(snapshot.ids(r.rows), r.scores, strict=True)]
        for view, ranked in answers.items()
        for i, r in enumerate(ranked)
    }


def same_hits(found, wanted, *, tolerance=2e-6):
    """Compare two answers of :func:`hits`: the same ids in the same order, scores equal up to float32 sums."""
    assert found.keys() == wanted.keys()
    for asked in wanted:
        assert [x for x, _ in found[asked]] == [x for x, _ in wanted[asked]], asked
        np.testing.assert_allclose([s for _, s in found[asked]], [s for _, s in wanted[asked]], rtol=0, atol=tolerance)


def same_answers(found, wanted):
    """Compare two snapshots by all that they answer."""
    assert len(found) == len(wanted)
    assert found.language_counts == wanted.language_counts
    same_hits(hits(found), hits(wanted))
    same_hits(hits(found, k=3), hits(wanted, k=3))


def state(folder):
    """Return all bytes of a collection by file, but not the lock."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def named(folder):
    """Return the files that there should be."""
    manifest = Manifest.read(folder)
    return {p.relative_to(folder) for p, _ in files(folder, manifest)} | {Path("manifest.json")}
