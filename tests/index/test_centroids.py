import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.centroids import KAPPA, NO_SUMS, TRUST, Centroids, LanguageSums, Prior, concentration, sum_by_language
from tests.index.toy import unit_rows

LANGUAGES = ["", "de", "en", "sw", "th"]


def sums_of(texts, dims=4):
    """Sum texts given as (language, (T_i, dims) vectors)."""
    lengths = [len(vectors) for _, vectors in texts]
    values = np.concatenate([np.empty((0, dims), np.float16), *(v for _, v in texts)])
    codes = np.array([LANGUAGES.index(language) for language, _ in texts], np.uint16)
    return sum_by_language(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), codes, LANGUAGES)


def drawn(seed, count, *, tokens=3):
    rng = np.random.default_rng(seed)
    return [
        (
            LANGUAGES[rng.integers(len(LANGUAGES))],
            unit_rows(rng, int(rng.integers(0, tokens + 1)), 4).astype(np.float16),
        )
        for _ in range(count)
    ]


def test_sums_by_hand():
    # de: (1, 0) + (0, .5) + (.5, .5) = (1.5, 1) of three vectors in two texts; en: (0, 1) of one; sw has no text.
    values = np.array([[1, 0], [0, 0.5], [0, 1], [0.5, 0.5]], np.float16)
    found = sum_by_language(values, np.array([0, 2, 3, 4]), np.array([0, 1, 0]), ["de", "en", "sw"])
    assert {x: v.tolist() for x, v in found.sums.items()} == {"de": [1.5, 1.0], "en": [0.0, 1.0]}
    assert found.vectors == {"de": 3, "en": 1}
    assert found.documents == {"de": 2, "en": 1}


def test_the_sums_do_not_depend_on_the_chunks():
    texts = drawn(0, 5000, tokens=2)
    whole = sums_of(texts)
    parts = sums_of(texts[:4096]).plus(sums_of(texts[4096:]))
    for language in LANGUAGES:
        np.testing.assert_array_equal(whole.sums[language], parts.sums[language])


@given(st.integers(0, 999), st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=12))
def test_sums_after_any_adds_and_deletes_are_those_of_a_fresh_build_bit_for_bit(seed, steps):
    pool, held, running = [drawn(seed + i, 3) for i in range(5)], set(), NO_SUMS
    for number, _ in steps:
        running = running.plus(sums_of(pool[number]), sign=-1 if number in held else 1)
        held ^= {number}
    fresh = sums_of([text for number in sorted(held) for text in pool[number]])
    for language in LANGUAGES:
        zero = np.zeros(4)
        np.testing.assert_array_equal(running.sums.get(language, zero), fresh.sums.get(language, zero))
        assert running.vectors.get(language, 0) == fresh.vectors.get(language, 0)
        assert running.documents.get(language, 0) == fresh.documents.get(language, 0)
    prior = Prior(("de", "fr"), unit_rows(np.random.default_rng(seed), 2, 4))
    for given_prior in (None, prior):
        after, anew = Centroids(running, given_prior, 4), Centroids(fresh, given_prior, 4)
        assert after.alpha == anew.alpha
        for language in [*LANGUAGES, "fr", "yo"]:
            np.testing.assert_array_equal(after.offset(language), anew.offset(language))


@given(st.dictionaries(st.sampled_from(LANGUAGES), st.integers(0, 50)))
def test_alpha_is_the_chance_that_two_documents_share_their_language(counts):
    known = [n for language, n in counts.items() if language]
    total = sum(known)
    wanted = sum(n * n for n in known) / total**2 if total else 1.0
    assert concentration(counts) == pytest.approx(wanted)


@pytest.mark.parametrize("prior", [None, Prior(("de", "en"), np.array([[0.5, 0], [0, 0.5]], np.float32))])
@pytest.mark.parametrize("unknown", [0, 3])
def test_in_one_language_nothing_is_removed(prior, unknown):
    rng = np.random.default_rng(0)
    texts = [("de", unit_rows(rng, 2, 2).astype(np.float16)) for _ in range(7)]
    texts += [("", unit_rows(rng, 1, 2).astype(np.float16)) for _ in range(unknown)]
    centroids = Centroids(sums_of(texts, 2), prior, 2)
    assert centroids.alpha == 1.0
    assert not centroids.neutral
    assert centroids.offset("de").tolist() == [0.0, 0.0]
    assert centroids.offset("").tolist() == [0.0, 0.0]
    assert centroids.offset("yo").tolist() == [0.0, 0.0]


def two_languages(prior=None):
    """Thirty German documents at (1, 0), ten English ones at (0, 1)."""
    sums = {"de": np.array([30.0, 0.0]), "en": np.array([0.0, 10.0])}
    counts = {"de": 30, "en": 10}
    return Centroids(LanguageSums(sums, counts, counts), prior, 2)


def test_two_languages_without_prior_by_hand():
    # M = (30, 10) / 40 = (.75, .25); with kappa = 10 the shares of the languages' own means are 30/40 and 10/20:
    # mu_de = .75 (1, 0) + .25 M = (.9375, .0625), mu_en = .5 (0, 1) + .5 M = (.375, .625).
    # p = (.75, .25), alpha = .5625 + .0625 = .625,
    # mean = .75 mu_de + .25 mu_en = (.796875, .203125), alpha * mean = (.498046875, .126953125).
    # offset_de = (.439453125, -.064453125), offset_en = (-.123046875, .498046875), unknown = .375 mean.
    assert KAPPA == 10.0
    centroids = two_languages()
    assert centroids.alpha == 0.625
    assert centroids.neutral
    np.testing.assert_allclose(centroids.offset("de"), [0.439453125, -0.064453125], atol=1e-7)
    np.testing.assert_allclose(centroids.offset("en"), [-0.123046875, 0.498046875], atol=1e-7)
    np.testing.assert_allclose(centroids.offset(""), [0.298828125, 0.076171875], atol=1e-7)
    np.testing.assert_array_equal(centroids.offset("sw"), centroids.offset(""))


def test_the_prior_moves_languages_by_how_they_differ_where_they_were_measured():
    # S = .75 (.4, 0) + .25 (0, .4) = (.3, .1); with trust .5: prior_de = M + .5 ((.4, 0) - S) = (.75, .25) +
    # (.05, -.05) = (.8, .2); prior_en = M + .5 (-.3, .3) = (.6, .4); prior_sw = M + .5 (-.1, -.1) = (.7, .2).
    # mu_de = .75 (1, 0) + .25 (.8, .2) = (.95, .05); mu_en = .5 (0, 1) + .5 (.6, .4) = (.3, .7).
    # mean = .75 mu_de + .25 mu_en = (.7875, .2125), alpha * mean = (.4921875, .1328125).
    assert TRUST == 0.5
    shipped = Prior(("de", "en", "sw"), np.array([[0.4, 0], [0, 0.4], [0.2, 0]], np.float32))
    centroids = two_languages(shipped)
    np.testing.assert_allclose(centroids.offset("de"), [0.4578125, -0.0828125], atol=1e-6)
    np.testing.assert_allclose(centroids.offset("en"), [-0.1921875, 0.5671875], atol=1e-6)
    # Swahili is unseen here but ships: its prior, less alpha * mean.
    np.testing.assert_allclose(centroids.offset("sw"), [0.2078125, 0.0671875], atol=1e-6)


def test_a_shipped_language_tells_nothing_where_no_language_of_the_collection_ships():
    centroids = two_languages(Prior(("sw",), np.array([[9.0, 9.0]], np.float32)))
    # Without S there is no difference to apply: Swahili is at M = (.75, .25), less alpha * mean as above.
    np.testing.assert_allclose(centroids.offset("sw"), [0.251953125, 0.123046875], atol=1e-7)


def test_a_language_whose_last_document_went_is_unseen_again():
    texts = [("de", np.array([[1, 0]], np.float16)), ("en", np.array([[0, 1]], np.float16))]
    centroids = Centroids(sums_of(texts, 2).plus(sums_of(texts[1:], 2), sign=-1), None, 2)
    assert centroids.alpha == 1.0
    assert centroids.offset("en").tolist() == [0.0, 0.0]


def test_an_empty_collection_removes_nothing():
    centroids = Centroids(NO_SUMS, None, 3)
    assert not centroids.neutral
    assert centroids.offset("de").tolist() == [0.0, 0.0, 0.0]


def test_a_prior_needs_one_centroid_for_each_language():
    with pytest.raises(ValueError, match=r"2 languages but centroids of shape \(3, 4\)"):
        Prior(("de", "en"), np.zeros((3, 4), np.float32))
