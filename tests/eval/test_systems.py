import math

import numpy as np
import pytest

from data.errors import UsageError
from data.records import Document, Hit, Query
from eval.references import REFERENCES
from eval.systems import views_of
from index.adding import Writing
from index.collection import Collection
from index.snapshot import Snapshot


@pytest.fixture
def indexed(tmp_path):
    """Build a real collection with BM25 alone and open it; its first row is one of a deleted document."""

    def build(*documents, reference="rank-bm25"):
        collection = Collection.create(tmp_path / "collection", ["bm25"], None)
        writing = Writing(encoder=None, identify=lambda texts: [""] * len(texts))
        collection.add([Document("gone", "red fox hen pond"), *documents], writing)
        collection.delete(["gone"])
        return REFERENCES[reference](Snapshot.open(tmp_path / "collection"))

    return build


COLOURS = (Document("a", "red red fox"), Document("b", "red hen"), Document("c", "blue hen", title="pond"))


def test_scores_by_hand(indexed):
    # 3 documents of 3, 2 and 3 terms: mean length 8/3. idf(fox) = ln((3 - 1 + 0.5) / (1 + 0.5)) = ln(5/3).
    # a: length norm 0.9 * (0.6 + 0.4 * 3 / (8/3)) = 0.945; score = ln(5/3) * 1.9 / (1 + 0.945).
    retriever = indexed(*COLOURS)
    (hits,) = retriever.search(["fox"], 10)
    assert hits == [Hit("a", pytest.approx(math.log(5 / 3) * 1.9 / 1.945))]
    # idf(red) = idf(hen) = ln(1.5 / 2.5) < 0, so a quarter of the mean idf: (3 ln(5/3) - 2 ln(5/3)) / 5 / 4.
    # a: tf 2, norm 0.945; b: tf 1, norm 0.9 * (0.6 + 0.4 * 2 / (8/3)) = 0.81.
    floor = math.log(5 / 3) / 20
    (hits,) = retriever.search(["Red"], 10)
    assert hits == [
        Hit("a", pytest.approx(floor * 2 * 1.9 / 2.945)),
        Hit("b", pytest.approx(floor * 1.9 / 1.81)),
    ]


def test_titles_are_searched_and_words_nobody_wrote_find_nothing(indexed):
    retriever = indexed(*COLOURS)
    assert [[h.id for h in hits] for hits in retriever.search(["pond", "unicorn", "", "🦄"], 10)] == [
        ["c"],
        [],
        [],
        [],
    ]


def test_ties_go_to_the_greater_id_and_k_caps(indexed):
    retriever = indexed(
        *(Document(i, "same words") for i in "bdac"), Document("e", "another thing"), Document("f", "third")
    )
    assert [h.id for h in retriever.search(["same"], 10)[0]] == ["d", "c", "b", "a"]
    assert [h.id for h in retriever.search(["same"], 2)[0]] == ["d", "c"]
    assert retriever.search(["same"], 0) == [[]]


def test_within_allows_rows_of_the_snapshot(indexed):
    retriever = indexed(*COLOURS)
    allowed = [np.array([2, 3], np.int64), np.array([], np.int64), np.array([0, 1], np.int64)]
    found = retriever.search(["red fox"] * 3, 10, within=allowed)
    assert [[h.id for h in hits] for hits in found] == [["b"], [], ["a"]]


def test_queries_are_stemmed_in_their_language_and_those_of_the_collection(indexed):
    retriever = indexed(Document("de", "die Häuser", lang="de"), Document("x", "something else"), Document("y", "more"))
    found = retriever.search([Query("Haus", lang="de"), Query("Häuser", lang="de"), "Häuser"], 10)
    assert [[h.id for h in hits] for hits in found] == [["de"]] * 3


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("ประเทศไทยสวยงาม", "ไทย"),
        ("北京是中国的首都", "中国"),
        ("東京タワー", "東京"),
        ("ភ្នំពេញ", "ភ្នំពេញ"),
        ("भारत की राजधानी", "राजधानी"),
    ],
)
def test_scripts_of_all_kinds_are_found(indexed, text, query):
    retriever = indexed(
        Document("it", text), Document("x", "something else"), Document("y", "🙂 emoji"), Document("z", "بيروت")
    )
    assert [h.id for h in retriever.search([query], 10)[0]] == ["it"]


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("corpus", [(), (Document("blank", " "), Document("dots", "..."))])
def test_a_corpus_without_words_finds_nothing(indexed, corpus, reference):
    assert indexed(*corpus, reference=reference).search(["anything", "..."], 10) == [[], []]


def test_bm25s_finds_what_polyseek_finds(demo_engine):
    own, other = demo_engine.retriever("bm25"), REFERENCES["bm25s"](demo_engine.snapshot)
    queries = ["malaria", "how do vaccines work?", "ไทย", "unbekanntes Wortungetüm", "日食", ""]
    for mine, theirs in zip(own.search(queries, 20), other.search(queries, 20), strict=True):
        assert [hit.score for hit in mine] == pytest.approx([hit.score for hit in theirs], rel=1e-4)
        assert {hit.id for hit in mine} == {hit.id for hit in theirs}


def test_only_the_views_that_are_needed_are_built():
    assert views_of(["bm25"]) == ("bm25",)
    assert views_of(["rank-bm25"]) == ("bm25",)
    assert views_of(["rank-bm25", "dense"]) == ("dense",)
    assert views_of(["late", "bm25"]) == ("bm25", "late")
    assert views_of(["bm25@200:late/no-neutral"]) == ("bm25", "late")
    assert views_of(["hybrid:late"]) == ("bm25", "dense", "late")
    assert views_of(["hybrid"]) == views_of(["cascade"]) == views_of(["dense", "late", "bm25"])


@pytest.mark.parametrize(
    ("systems", "given"), [(["bm25", "bm42"], "'bm42'"), (["bm25:rank-bm25"], "'bm25:rank-bm25'"), ([], "nothing")]
)
def test_unknown_systems_are_refused_with_the_known_ones(systems, given):
    with pytest.raises(UsageError, match=f"{given}: choose among hybrid, cascade, dense, late, bm25, rank-bm25"):
        views_of(systems)
