"""What several systems look into is searched once, and nothing of what is found depends on it."""

import pytest

from data.records import Document, Query
from eval.shared import Shared
from eval.systems import open_system
from retriever.engine import BuildSettings, Engine, build_collection

WORDS = ["reef", "sea", "fox", "white", "warm", "Meer", "Zaun", "bahari", "joto", "риф"]
LANGUAGES = ["en", "de", "sw"]
SYSTEMS = ("bm25", "dense", "late", "hybrid", "cascade", "bm25@5:late", "dense/no-neutral", "hybrid/no-neutral", "late")
QUERIES = [Query(f"the {word} is {other}", "en", f"q{word}{other}") for word in WORDS for other in WORDS[:2]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory, tiny_folder):
    documents = [Document(f"d{n}", f"{WORDS[n % 10]} {WORDS[n // 10]} {n}", lang=LANGUAGES[n % 3]) for n in range(100)]
    folder = tmp_path_factory.mktemp("shared")
    build_collection(documents, folder, BuildSettings(encoder=str(tiny_folder)))
    return Engine.open(folder)


# A hit takes 8 bytes: of 20 questions with 100 hits each, 16,000 a ranker.
@pytest.mark.parametrize(("budget", "saves"), [(0, False), (40_000, True), (1 << 20, True)])
def test_every_system_finds_what_it_finds_alone(engine, budget, saves):
    shared = Shared(budget)
    for system in SYSTEMS:
        alone = open_system(engine, system, neutral=True)
        together = open_system(engine, system, neutral=True, share=shared)
        for batch in (QUERIES[:7], QUERIES[7:]):
            for k in (100, 10):
                assert together.search(batch, k) == alone.search(batch, k)
    assert (shared.saved > 0) is saves
    assert 0 <= shared.budget <= budget


def test_questions_one_by_one_and_filters_are_searched_every_time(engine):
    shared = Shared()
    retriever = open_system(engine, "hybrid", neutral=True, share=shared)
    for _ in range(2):
        retriever.search(QUERIES[:1], 10)
        retriever.search(QUERIES[:2], 10, within=[engine.snapshot.select(["d1", "d2"])] * 2)
    assert shared.saved == 0


def test_what_is_looked_up_counts_as_long_as_it_took(engine):
    shared = Shared()
    retriever = open_system(engine, "late", neutral=True, share=shared)
    times = []
    for _ in range(2):
        began = shared.clock()
        retriever.search(QUERIES, 100)
        times.append(shared.clock() - began)
    assert times[1] >= shared.saved > 0
