import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import NotFoundError, UsageError
from retriever.encoder import Encoder
from retriever.engine import BuildSettings
from retriever.training.examples import Meaning, Pair, Skipped, Source, letters, read_sources
from retriever.training.mining import Mined, Mining, check_output, index_passages, mine, passages
from server.cli import main

BM25 = Mining(using="bm25")
NO_MODEL = BuildSettings(views=("bm25",))


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def mined(tmp_path):
    """Mine pairs and return the rows and what is told of them."""

    def run(pairs, mining=BM25, settings=NO_MODEL):
        sources = [Source("pairs.jsonl", list(pairs))]
        engine = index_passages(sources, tmp_path / "work", mining=mining, settings=settings)
        report = mine(sources, engine, output=tmp_path / "mined.jsonl", mining=mining)
        return rows_of(tmp_path / "mined.jsonl"), report

    return run


def by_query(rows):
    return {row["query"]: row["negatives"] for row in rows}


# All passages have six words, so that BM25 scores follow the words that they share with a query.
REEF = [
    Pair("red coral reef", "red coral reef one two three", "en"),
    Pair("red coral reef", "Red coral: reef four five six!", "en"),
    Pair("red fox", "red fox seven eight nine ten", "en"),
    Pair("coral of the sea", "coral sea eleven twelve thirteen more", "en"),
    Pair("green fence", "green fence some other words here", "en"),
]


def test_what_shares_words_is_a_negative_unless_it_answers(mined):
    rows, report = mined(REEF)
    assert [row["positive"] for row in rows] == [pair.positive for pair in REEF]
    first, second, fox, sea, fence = (set(row["negatives"]) for row in rows)
    assert first == second == {REEF[2].positive, REEF[3].positive}  # and not each other
    assert fox == sea == {REEF[0].positive, REEF[1].positive}
    assert fence == set()
    assert report == Mined(rows=5, negatives=8, without=1, answers=7, close=0)


def test_what_scores_like_the_answer_is_left_out(mined):
    pairs = [
        Pair("red coral reef", "red coral reef one two three"),
        Pair("a b c", "red coral reef four five six"),  # the same score for the first query
        Pair("d e f", "red coral seven eight nine ten"),
    ]
    rows, report = mined(pairs)
    assert rows[0]["negatives"] == [pairs[2].positive]
    assert report.close == 1
    rows, _ = mined(pairs, replace(BM25, margin=1.0))
    assert set(rows[0]["negatives"]) == {pairs[1].positive, pairs[2].positive}
    # idf of "red" and "coral", in all 3 texts, is ln(1 + .5 / 3.5) = .1335, of "reef", in 2, ln(1 + 1.5 / 2.5) = .4700;
    # all lengths and counts are alike, so the third text has .267 / .737 = .3623 of what the answer scores.
    for margin, expected in ((0.362, []), (0.363, [pairs[2].positive])):
        rows, _ = mined(pairs, replace(BM25, margin=margin))
        assert rows[0]["negatives"] == expected


def test_scores_are_those_of_the_search_and_of_as_many_texts(mined):
    rows, _ = mined(REEF, replace(BM25, scores=True))
    for row in rows:
        positive, *others = row["scores"]
        assert len(others) == len(row["negatives"])
        assert all(score <= 0.95 * positive for score in others)
        assert positive > 0


def test_what_contains_an_answer_or_is_in_one_is_left_out(mined):
    pairs = [
        Pair("white reef", "the white reef of the warm sea"),
        Pair("one", "Long text: The white reef; of the warm sea, and more of it"),
        Pair("two", "WHITE reef!"),
        Pair("three", "white fences are not that"),
        Pair("four", "White, reef"),
    ]
    rows, report = mined(pairs, replace(BM25, margin=2.0))
    assert by_query(rows)["white reef"] == ["white fences are not that"]
    assert report.answers >= 3


def test_ranks_and_own_negatives_bound_what_is_drawn(mined):
    # Shorter texts rank higher: of 2 words, 3, two of 4, one of them the answer, then 5 and so on.
    longer = [Pair(f"q{n}", " ".join(["red", *(f"w{n}x{i}" for i in range(n + 1))])) for n in range(10)]
    pairs = [*longer, Pair("red", "red and two more", negatives=("blue",))]

    def found(**how):
        rows, _ = mined(pairs, replace(BM25, margin=9.0, **how))
        return rows[-1]["negatives"]

    texts = [pair.positive for pair in longer]
    assert found(negatives=30) == ["blue", *texts]
    assert found(negatives=30, first=5, last=8) == ["blue", *texts[3:7]]
    few = found(negatives=3)
    assert len(few) == 3 and few[0] == "blue" and few[1:] == sorted(few[1:], key=len)
    assert len({tuple(found(negatives=3, seed=seed)) for seed in range(5)}) > 1
    assert found(negatives=1) == ["blue"]


words = st.sampled_from(["red", "coral", "Reef", "fox", "fence", "white,", "海水", "狐狸", "ปลา"])
texts = st.lists(words, min_size=1, max_size=5).map(" ".join)
pair_lists = st.lists(st.builds(Pair, texts, texts), min_size=1, max_size=12)


@settings(max_examples=15, deadline=None)
@given(pair_lists, st.integers(0, 3))
def test_no_answer_is_ever_a_negative_and_seeds_reproduce(tmp_path_factory, pairs, seed):
    folder = tmp_path_factory.mktemp("mining")
    sources = [Source("pairs", pairs)]
    mining = replace(BM25, negatives=2, seed=seed, margin=1.0, scores=True)
    engine = index_passages(sources, folder / "work", mining=mining, settings=NO_MODEL)
    mine(sources, engine, output=folder / "a.jsonl", mining=mining)
    backwards = [Source("pairs", pairs[::-1])]
    mine(backwards, engine, output=folder / "b.jsonl", mining=mining)
    rows = rows_of(folder / "a.jsonl")
    assert rows == rows_of(folder / "b.jsonl")[::-1]  # what is drawn for a pair does not depend on the others
    for row in rows:
        answers = {letters(pair.positive) for pair in pairs if letters(pair.query) == letters(row["query"])}
        for text, score in zip(row["negatives"], row["scores"][1:], strict=True):
            assert not any(letters(text) in answer or answer in letters(text) for answer in answers)
            assert score <= row["scores"][0]
        assert len({*row["negatives"]}) == len(row["negatives"]) <= 2


def test_the_collection_is_kept_and_used_again(tmp_path):
    sources, work = [Source("pairs", REEF)], tmp_path / "work"
    counts = []
    for _ in range(2):
        engine = index_passages(sources, work, mining=BM25, settings=NO_MODEL)
        counts.append(engine.snapshot.manifest.generation)
    assert counts[0] == counts[1] and len(list(work.iterdir())) == 1
    index_passages([Source("pairs", REEF[:3])], work, mining=BM25, settings=NO_MODEL)
    assert len(list(work.iterdir())) == 2  # other passages never mix with these


@pytest.mark.parametrize("using", ["dense", "late", "hybrid", "cascade"])
def test_every_mode_mines_by_the_similarity_of_its_view(mined, tiny_folder, using):
    topics = ["coral reef", "der Fuchs", "海水变暖", "bahari joto", "ปะการัง", "Коралловый риф", "warm sea", "Zaun"]
    pairs = [Pair(f"{text}?", f"{text} {extra}") for text in topics for extra in ("fishes leave", "springt", "变白")]
    mining = Mining(using=using, scores=True, negatives=3, first=2, last=20)
    rows, report = mined(pairs, mining, BuildSettings(encoder=str(tiny_folder), backend="torch"))
    assert report.rows == len(pairs) and report.negatives > 0
    for row in rows:
        positive, *others = row["scores"]
        assert all(score <= positive - 0.05 * abs(positive) + 1e-5 for score in others)
        answers = {letters(pair.positive) for pair in pairs if pair.query == row["query"]}
        assert not answers & set(map(letters, row["negatives"]))


def test_the_dense_scores_of_a_fusion_are_cosines(mined, tiny_folder):
    sentences = [
        "The coral reef turns white when the sea is warm.", "All of the fishes leave the reef in the summer.",
        "What the fox does at the fence is not known to us.", "When the passage is white, we query the sea again.",
    ]  # fmt: skip
    pairs = [Pair(text.split()[-1], text, "en") for text in sentences]
    mining = Mining(using="hybrid", scores=True, margin=3.0)
    rows, _ = mined(pairs, mining, BuildSettings(encoder=str(tiny_folder), backend="torch"))
    encoder = Encoder.load(str(tiny_folder), backend="torch")
    for row in rows:  # one language, so nothing is taken off
        passages = encoder.encode_documents([row["positive"], *row["negatives"]]).dense
        query = encoder.encode_queries([row["query"]]).dense[0]
        assert len(row["negatives"]) == 3
        assert np.allclose(row["scores"], passages @ query, atol=2e-3)  # the collection keeps float16


def test_wrong_wishes_are_refused(tmp_path):
    for wrong in ({"using": "guess"}, {"negatives": 0}, {"first": 9, "last": 3}, {"margin": 0.0}):
        with pytest.raises(UsageError):
            Mining(**wrong)
    with pytest.raises(UsageError, match="no queries and passages"):
        passages([Source("m", [Meaning("one", (("de", "eins"),))])])
    with pytest.raises(UsageError, match=r"\*\.jsonl"):
        check_output(tmp_path / "rows.csv")
    with pytest.raises(NotFoundError, match="make that folder"):
        check_output(tmp_path / "nowhere" / "rows.jsonl")


def test_the_command_writes_rows_that_trainings_read(tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    lines = [
        {"query": p.query, "positive": p.positive, "lang": "en", "source": "reef", "negatives": list(p.negatives)}
        for p in REEF
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    output = tmp_path / "mined.jsonl"
    assert main(["mine", str(path), "--to", str(output), "--using", "bm25", "--negatives", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["negatives"], told["without"]) == (5, 4, 1)
    (found,) = read_sources(output, Skipped())
    assert found.name == "mined.jsonl:pairs.jsonl:reef:en"
    assert [(p.query, p.positive, p.language) for p in found.examples] == [
        (p.query, p.positive, p.language) for p in REEF
    ]
    assert [len(p.negatives) for p in found.examples] == [1, 1, 1, 1, 0]
    before = output.read_bytes()
    assert main(["mine", str(tmp_path / "none.jsonl"), "--to", str(output)]) == 1
    assert main(["mine", str(path), "--to", str(tmp_path / "x.csv")]) == 2
    assert main(["mine", str(path), "--to", str(output), "--using", "guess"]) == 2
    assert output.read_bytes() == before
    assert main(["mine", str(path), "--to", str(output), "--using", "bm25", "--negatives", "1"]) == 0
    assert output.read_bytes() == before
    assert "4 negatives for 5 rows, 1 without any" in capsys.readouterr().out
