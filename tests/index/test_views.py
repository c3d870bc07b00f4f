import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.centroids import NO_SUMS, Centroids, LanguageSums, sum_by_language
from index.dense import DenseView
from index.late import LateView
from index.ragged import Ragged
from index.vectors import VectorRows, groups
from tests.index.toy import unit_rows

LANGUAGES = ["", "de", "en", "sw"]
DIMS = 8
SETTINGS = settings(max_examples=40, deadline=None)


class World:
    """Random rows in several segments, many of them the same, some empty, some deleted; and queries."""

    def __init__(self, seed, *, late, count=45, deleted=0.2, languages=LANGUAGES, queries=4):
        rng = np.random.default_rng(seed)
        self.late = late
        # A dozen different texts for many rows: ties everywhere. Text 0 is empty.
        lengths = [0, *rng.integers(1, 6, 11)] if late else [1] * 12
        pool = [unit_rows(rng, n, DIMS).astype(np.float16) for n in lengths]
        if not late:
            pool[0][:] = 0
        self.texts = [pool[i] for i in rng.integers(0, 12, count)]
        self.codes = rng.integers(0, len(languages), count)
        self.languages = list(languages)
        self.live = rng.random(count) >= deleted
        self.id_order = rng.permutation(count)
        cuts = np.sort(rng.integers(0, count + 1, 2)).tolist()
        self.parts = [Ragged.of(self.texts[a:b], DIMS) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
        self.asked = [unit_rows(rng, int(rng.integers(1, 5)) if late else 1, DIMS) for _ in range(queries)]
        self.spoken = [["de", "", "yo"][i] for i in rng.integers(0, 3, queries)]
        self.rng = rng

    def rows(self):
        sums = NO_SUMS
        for row in np.flatnonzero(self.live):
            text = self.texts[row]
            sums = sums.plus(sum_by_language(text, np.array([0, len(text)]), self.codes[[row]], self.languages))
        centroids = Centroids(sums, None, DIMS)
        return VectorRows(self.parts, self.live, self.languages, self.codes, centroids, self.id_order)

    def search(self, k, *, neutral, within=None):
        if self.late:
            return LateView(self.rows()).search(
                Ragged.of(self.asked, DIMS), self.spoken, k, neutral=neutral, within=within
            )
        return DenseView(self.rows(), [None] * 3).search(
            np.concatenate(self.asked), self.spoken, k, neutral=neutral, within=within
        )

    def plain_scores(self, query, *, neutral):
        """Score every row in float64, one at a time: nan where a row cannot be found."""
        centroids = self.rows().centroids
        removed = neutral and centroids.neutral

        def ready(vectors, language):
            vectors = vectors.astype(np.float64) - (centroids.offset(language) if neutral else 0)
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

        asked, scores = ready(self.asked[query], self.spoken[query]), []
        for row, text in enumerate(self.texts):
            if not self.live[row] or not text.any():
                scores.append(np.nan)
                continue
            held = ready(text, self.languages[self.codes[row]]) if removed else text.astype(np.float64)
            scores.append((asked @ held.T).max(axis=1).sum())
        return np.array(scores)

    def same(self, a, b):
        return np.array_equal(self.texts[a], self.texts[b]) and self.codes[a] == self.codes[b]


def check(world, query, found, k, *, neutral, allowed=None):
    """Compare one ranking with what scoring every row gives."""
    scores = world.plain_scores(query, neutral=neutral)
    candidates = np.flatnonzero(~np.isnan(scores))
    if allowed is not None:
        candidates = np.intersect1d(candidates, allowed)
    assert len(found.rows) == min(k, len(candidates))
    assert set(found.rows) <= set(candidates)
    np.testing.assert_allclose(found.scores, np.sort(scores[candidates])[::-1][:k], atol=4e-6)
    np.testing.assert_allclose(found.scores, scores[found.rows], atol=4e-6)
    assert np.all(np.diff(found.scores) <= 0)
    places = {row: place for place, row in enumerate(found.rows)}
    for a in candidates:
        for b in candidates[candidates > a]:
            if world.same(a, b):  # the same text: the greater id comes first, whichever is cut off
                first, second = (a, b) if world.id_order[a] > world.id_order[b] else (b, a)
                assert places.get(first, k) < places.get(second, k + 1)


@pytest.mark.parametrize("late", [False, True])
@SETTINGS
@given(seed=st.integers(0, 10_000), k=st.integers(1, 90), neutral=st.booleans())
def test_finds_what_scoring_every_row_finds(late, seed, k, neutral):
    world = World(seed, late=late)
    for query, found in enumerate(world.search(k, neutral=neutral)):
        check(world, query, found, k, neutral=neutral)


@pytest.mark.parametrize("late", [False, True])
@SETTINGS
@given(seed=st.integers(0, 10_000), k=st.integers(1, 20), neutral=st.booleans(), share=st.floats(0, 1))
def test_a_filter_is_exact(late, seed, k, neutral, share):
    world = World(seed, late=late)
    within = [np.flatnonzero(world.rng.random(len(world.texts)) < share) for _ in world.asked]
    within[1] = within[0]
    for query, found in enumerate(world.search(k, neutral=neutral, within=within)):
        check(world, query, found, k, neutral=neutral, allowed=within[query])


@pytest.mark.parametrize("late", [False, True])
def test_what_is_found_does_not_depend_on_the_queries_beside_it(late):
    # FAISS takes another road from 20 queries on; ties must not come out another way.
    world = World(5, late=late, count=400, queries=40)
    together = world.search(25, neutral=True)
    for query in range(40):
        alone = World(5, late=late, count=400, queries=40)
        alone.asked, alone.spoken = [world.asked[query]], [world.spoken[query]]
        (found,) = alone.search(25, neutral=True)
        assert found.rows.tolist() == together[query].rows.tolist()
        np.testing.assert_allclose(found.scores, together[query].scores, atol=2e-6)


@pytest.mark.parametrize("late", [False, True])
def test_in_one_language_the_switch_changes_no_bit(late):
    for seed in range(10):
        world = World(seed, late=late, languages=["de"])
        world.spoken = ["de", "", "yo", "de"]
        for on, off in zip(world.search(20, neutral=True), world.search(20, neutral=False), strict=True):
            assert on.rows.tolist() == off.rows.tolist()
            assert on.scores.tolist() == off.scores.tolist()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("k", [0, 10])
@pytest.mark.parametrize("state", ["no rows", "all deleted"])
def test_nothing_is_found_where_nothing_lives(late, k, state):
    world = World(0, late=late, count=0 if state == "no rows" else 30)
    world.live[:] = False
    assert [len(found.rows) for found in world.search(k, neutral=True)] == [0, 0, 0, 0]


@pytest.mark.parametrize("late", [False, True])
def test_k_of_zero_finds_nothing_and_a_huge_one_everything(late):
    world = World(0, late=late)
    assert [len(found.rows) for found in world.search(0, neutral=True)] == [0, 0, 0, 0]
    for query, found in enumerate(world.search(10**9, neutral=True)):
        check(world, query, found, 10**9, neutral=True)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("neutral", [False, True])
def test_an_empty_query_finds_nothing_and_its_neighbours_all_the_same(late, neutral):
    world = World(0, late=late)
    wanted = world.search(5, neutral=neutral)
    world.asked[1] = np.zeros((0 if late else 1, DIMS), np.float32)
    found = world.search(5, neutral=neutral)
    assert [len(x.rows) for x in found] == [5, 0, 5, 5]
    assert found[0].rows.tolist() == wanted[0].rows.tolist()
    assert found[3].rows.tolist() == wanted[3].rows.tolist()


@pytest.mark.parametrize("late", [False, True])
def test_no_query_gives_no_ranking(late):
    world = World(0, late=late)
    world.asked, world.spoken = [], []
    view = LateView(world.rows()) if late else DenseView(world.rows(), [None] * 3)
    queries = Ragged.of([], DIMS) if late else np.empty((0, DIMS), np.float32)
    assert view.search(queries, [], 5, neutral=True) == []


def two_languages():
    """One German document at (1, 0), one English at (.6, .8); many more give the centroids, and are deleted."""
    sums = {"de": np.array([80.0, 0.0]), "en": np.array([0.0, 80.0])}
    counts = {"de": 10**9, "en": 10**9}  # so many that the prior counts for nothing
    vectors = {"de": 80, "en": 80}
    centroids = Centroids(LanguageSums(sums, vectors, counts), None, 2)
    values = np.array([[1, 0], [0.6, 0.8]], np.float16)
    parts = [Ragged(values, np.array([0, 1, 2]))]
    return VectorRows(parts, np.ones(2, np.bool_), ["de", "en"], np.array([0, 1]), centroids, np.arange(2))


@pytest.mark.parametrize("late", [False, True])
def test_two_languages_by_hand(late):
    # mu_de = (1, 0), mu_en = (0, 1), p = (.5, .5): mean (.5, .5), alpha .5, alpha * mean = (.25, .25).
    # offset_de = (.75, -.25), offset_en = (-.25, .75), unknown = mean - alpha * mean = (.25, .25).
    # Document 0 (1, 0) - offset_de = (.25, .25) -> (.7071, .7071).
    # Document 1 (.6, .8) - offset_en = (.85, .05) -> (.99827, .05872).
    # A German query (.8, .6) - offset_de = (.05, .85) -> (.05872, .99827).
    #   neutral: 0: .7071 * .05872 + .7071 * .99827 = .74740;  1: .99827 * .05872 + .05872 * .99827 = .11724
    #   as is:   0: .8;                                        1: .48 + .48 = .96
    # A query in no known language (.8, .6) - (.25, .25) = (.55, .35) -> (.84366, .53688).
    #   neutral: 0: .7071 * 1.38054 = .97619;                  1: .99827 * .84366 + .05872 * .53688 = .87373
    rows = two_languages()
    view, query = (LateView(rows), None) if late else (DenseView(rows, [None] * len(rows.parts)), None)
    query = np.array([[0.8, 0.6]], np.float32)
    asked = Ragged(query, np.array([0, 1])) if late else query
    for language, neutral, order, scores in [
        ("de", True, [0, 1], [0.74740, 0.11724]),
        ("de", False, [1, 0], [0.96, 0.8]),
        ("", True, [0, 1], [0.97619, 0.87373]),
    ]:
        (found,) = view.search(asked, [language], 2, neutral=neutral)
        assert found.rows.tolist() == order
        np.testing.assert_allclose(found.scores, scores, atol=1e-3)  # .6 and .8 are not exact in float16


def test_dense_goes_deeper_where_more_than_it_looked_at_are_tied():
    # 500 rows with the same vector: the ten greatest ids win, and they are not the first that FAISS sees.
    values = np.tile(np.array([1, 0], np.float16), (500, 1))
    rows = VectorRows(
        [Ragged(values, np.arange(501))],
        np.ones(500, np.bool_),
        ["de"],
        np.zeros(500, np.int64),
        Centroids(NO_SUMS, None, 2),
        np.random.default_rng(0).permutation(500),
    )
    (found,) = DenseView(rows, [None] * len(rows.parts)).search(
        np.array([[0.6, 0.8]], np.float32), ["de"], 10, neutral=True
    )
    assert found.rows.tolist() == np.argsort(-rows.id_order)[:10].tolist()


@pytest.mark.parametrize("tokens", [1, 3, 7, 10_000])
@pytest.mark.parametrize("neutral", [False, True])
def test_blocks_give_every_row_once_whatever_their_size(tokens, neutral):
    world = World(3, late=True)
    rows = np.flatnonzero(world.rng.random(len(world.texts)) < 0.7)
    whole = {}
    for block, vectors in world.rows().blocks(rows, 10**9, neutral=neutral):
        whole |= {row: vectors[i] for i, row in enumerate(block.tolist())}
    seen = []
    for block, vectors in world.rows().blocks(rows, tokens, neutral=neutral):
        assert len(vectors.values) <= tokens or len(block) == 1
        for i, row in enumerate(block.tolist()):
            np.testing.assert_array_equal(vectors[i], whole[row])
        seen += block.tolist()
    assert seen == rows.tolist()


def test_vectors_lose_their_languages_offset_and_keep_length_one():
    world = World(3, late=True)
    rows = world.rows()
    for block, vectors in rows.blocks(np.arange(len(world.texts)), 50, neutral=True):
        for i, row in enumerate(block.tolist()):
            lost = world.texts[row].astype(np.float64) - rows.centroids.offset(world.languages[world.codes[row]])
            np.testing.assert_allclose(vectors[i], lost / np.linalg.norm(lost, axis=1, keepdims=True), atol=1e-5)


def test_a_search_changes_no_stored_vector():
    world = World(3, late=True)
    before = [part.values.copy() for part in world.parts]
    world.search(5, neutral=True)
    for part, values in zip(world.parts, before, strict=True):
        np.testing.assert_array_equal(part.values, values)


def test_groups_take_equal_filters_together_and_leave_deleted_rows_out():
    live = np.array([True, False, True])
    some = np.array([0, 1])
    found = [(members, rows.tolist()) for members, rows in groups([some, np.array([2]), some], 3, live)]
    assert found == [([0, 2], [0]), ([1], [2])]
    assert [(m, r.tolist()) for m, r in groups(None, 2, live)] == [([0, 1], [0, 2])]


def test_groups_keep_filters_apart_that_are_made_when_asked_for():
    # The rows of a matrix are new objects each time, and two of them can have the same address.
    within = np.array([[0], [1], [2]])
    found = {tuple(members): rows.tolist() for members, rows in groups(within, 3, np.ones(3, np.bool_))}
    assert found == {(0,): [0], (1,): [1], (2,): [2]}


@pytest.mark.parametrize("rows", [[1, 0], [0, 0]])
def test_rows_out_of_order_are_refused(rows):
    with pytest.raises(ValueError, match="sorted, each once"):
        list(groups([np.array(rows)], 1, np.ones(3, np.bool_)))


def test_a_filter_for_each_query():
    with pytest.raises(ValueError, match="3 queries but `within` for 2"):
        list(groups([np.array([0]), np.array([1])], 3, np.ones(3, np.bool_)))


def test_threads_that_come_first_share_one_index():
    world = World(1, late=False)
    view, built, barrier = DenseView(world.rows(), [None] * 3), [], threading.Barrier(8)

    def ask():
        barrier.wait()
        view.search(np.concatenate(world.asked), world.spoken, 5, neutral=True)
        built.append(view._ready(True)[0])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(index) for index in built}) == 1
