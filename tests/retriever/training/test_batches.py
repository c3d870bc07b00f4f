from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UsageError
from retriever.training.batches import Mixer, Mixing, Row
from retriever.training.examples import Meaning, Pair, Source, letters

LANGUAGES = ["de", "sw", "th", "zh", "ar", "hi", "km"]


def meanings(count, languages=LANGUAGES):
    made = [Meaning(f"sentence {i}", tuple((x, f"{x} sentence {i}") for x in languages)) for i in range(count)]
    return Source("parallel", sorted(made, key=lambda meaning: meaning.pivot))


def pairs(count, name="qa"):
    return Source(name, [Pair(f"{name} question {i}", f"{name} answer {i // 2}", "de") for i in range(count)])


def test_the_same_seed_gives_the_same_batches():
    sources = [meanings(200), pairs(100)]
    first, second, other = (Mixer(sources, Mixing(rows=8), seed) for seed in (1, 1, 2))
    batches = [first.batch() for _ in range(20)]
    assert batches == [second.batch() for _ in range(20)]
    assert batches != [other.batch() for _ in range(20)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40), st.integers(2, 16), st.integers(2, 6))
def test_no_text_is_right_and_wrong_at_once(seed, count, rows, languages):
    mixer = Mixer([meanings(count), pairs(count)], Mixing(rows=rows, languages=languages), seed)
    for _ in range(5):
        batch = mixer.batch()
        assert 1 <= len(batch) <= rows
        queries, positives = ([letters(row[side]) for row in batch] for side in (0, 1))
        assert len(set(queries)) == len(queries)
        assert len(set(positives)) == len(positives)
        assert not set(queries) & set(positives)


def test_parallel_batches_have_few_languages_and_one_meaning_a_row():
    mixer = Mixer([meanings(300)], Mixing(rows=32, languages=3), 0)
    seen = Counter()
    for _ in range(40):
        batch = mixer.batch()
        spoken = {text.split()[0] for row in batch for text in row[:2]}
        assert len(spoken) <= 3  # "sentence" itself is English
        seen.update(spoken)
        for row in batch:
            assert row.query.split()[-1] == row.positive.split()[-1] == row.asked.split()[-1]
            assert row.query != row.positive
            assert row.asked == row.found
    assert set(LANGUAGES) <= seen.keys()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 5), st.integers(2, 16))
def test_several_versions_of_a_meaning_stand_together_and_no_other_rows_are_right_for_each_other(seed, versions, rows):
    rows = max(rows, 2 * versions)
    mixer = Mixer([meanings(60), pairs(40)], Mixing(rows=rows, languages=6, versions=versions), seed)
    for _ in range(5):
        batch = mixer.batch()
        assert len(batch) <= rows
        if batch[0].asked.startswith("sentence"):
            counts = Counter(row.asked for row in batch)
            assert max(counts.values()) <= versions
            assert sum(count < versions for count in counts.values()) <= 1  # the last may be cut
            assert [*dict.fromkeys(row.asked for row in batch)] == [*counts]
            for row in batch:
                assert row.query.split()[-1] == row.positive.split()[-1] == row.asked.split()[-1]
        else:
            assert len({letters(row[side]) for row in batch for side in (0, 1)}) == 2 * len(batch)


def test_rare_languages_that_share_no_sentence_still_make_several_meanings():
    made = [Meaning(f"sentence {i}", ((f"l{i}", f"l{i} sentence {i}"),)) for i in range(20)]
    mixer = Mixer([Source("parallel", made)], Mixing(rows=16, languages=2, versions=2), 0)
    assert all(len({row.asked for row in mixer.batch()}) > 1 for _ in range(50))


def test_the_same_text_of_two_rows_is_no_version():
    row = Row("x", "x", (), "x", "x", english=True)
    assert Mixer([pairs(4)], Mixing(rows=8), 0)._distinct([row, row]) == [row]


def test_english_stands_in_the_share_of_rows_asked_for():
    for share in (0.0, 0.5, 1.0):
        mixer = Mixer([meanings(300)], Mixing(rows=32, languages=8, pivot=share), 0)
        rows = [row for _ in range(50) for row in mixer.batch()]
        found = sum(row.asked in row[:2] for row in rows) / len(rows)
        assert found == pytest.approx(share + (1 - share) * 2 / 8, abs=0.04)  # it is one language of eight beside
        sides = Counter(row[:2].index(row.asked) for row in rows if row.asked in row[:2])
        assert sides[0] == pytest.approx(sides[1], rel=0.25)


def test_rows_say_whether_the_teacher_reads_english():
    both = [("en", "en"), ("en", "de"), ("de", "en"), ("", "")]
    answered = [Source("qa", [Pair(f"q {i}", f"a {i}", x, positive_language=y) for i in range(9)]) for x, y in both]
    for source, english in ((meanings(50), True), *zip(answered, (True, False, False, False), strict=True)):
        assert {row.english for row in Mixer([source], Mixing(rows=8), 0).batch()} == {english}


def test_a_batch_is_of_neighbours():
    mixer = Mixer([meanings(1000, ["de"])], Mixing(rows=10), 0)
    order = {meaning.pivot: i for i, meaning in enumerate(meanings(1000, ["de"]).examples)}
    for _ in range(20):
        places = [order[row.asked] for row in mixer.batch()]
        assert max(places) - min(places) < 30


@pytest.mark.parametrize(("spread", "least", "most"), [(1, 9, 9), (3, 10, 29), (0, 300, 999)])
def test_pairs_are_of_neighbours_or_of_a_whole_source(spread, least, most):
    source = Source("qa", [Pair(f"question {i}", f"answer {i}") for i in range(1000)])
    mixer = Mixer([source], Mixing(rows=10, spread=spread), 0)
    for _ in range(20):
        places = [int(row.query.split()[-1]) for row in mixer.batch()]
        assert len(places) == 10
        assert least <= max(places) - min(places) <= most


def test_what_is_rare_comes_more_often_than_its_share():
    sources = [pairs(900, "large"), pairs(100, "small")]
    counts = {}
    for smoothing in (1.0, 0.5, 0.0):
        mixer = Mixer(sources, Mixing(rows=4, smoothing=smoothing), 0)
        counts[smoothing] = sum(mixer.batch()[0].query.startswith("small") for _ in range(2000)) / 2000
    assert counts[1.0] == pytest.approx(0.1, abs=0.03)
    assert counts[0.5] == pytest.approx(0.25, abs=0.04)  # sqrt(100) to sqrt(900)
    assert counts[0.0] == pytest.approx(0.5, abs=0.05)


def test_the_share_of_parallel_text():
    mixer = Mixer([meanings(100), pairs(100)], Mixing(rows=4, parallel=0.3), 0)
    share = sum(mixer.batch()[0].asked.startswith("sentence") for _ in range(1000)) / 1000
    assert share == pytest.approx(0.3, abs=0.05)


def test_scores_follow_the_negatives_that_are_drawn():
    pair = Pair("q", "p", "", ("n1", "n2", "n3"), (9.0, 1.0, 2.0, 3.0))
    mixer = Mixer([Source("x", [pair, Pair("q2", "p2")])], Mixing(rows=2, negatives=2), 0)
    for _ in range(10):
        for row in mixer.batch():
            if row.query == "q":
                assert row.scores == (9.0, *(float(name[1]) for name in row.negatives))
                assert len(row.negatives) == 2
            else:
                assert (row.negatives, row.scores) == ((), ())


def test_what_nothing_can_be_learned_from_is_refused():
    with pytest.raises(UsageError, match="two examples"):
        Mixer([pairs(1)], Mixing(), 0)
    with pytest.raises(UsageError, match="shares of parallel"):
        Mixer([pairs(10)], Mixing(parallel=1.0), 0)
