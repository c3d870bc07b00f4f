from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UsageError
from retriever.training.batches import Mixer, Mixing
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


def test_a_batch_is_of_neighbours():
    mixer = Mixer([meanings(1000, ["de"])], Mixing(rows=10), 0)
    order = {meaning.pivot: i for i, meaning in enumerate(meanings(1000, ["de"]).examples)}
    for _ in range(20):
        places = [order[row.asked] for row in mixer.batch()]
        assert max(places) - min(places) < 30


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
