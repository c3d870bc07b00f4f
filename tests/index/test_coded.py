"""The coded late view: what rounding costs, what a search finds, and that commits copy what is coded."""

import shutil
import threading

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import index.collection as collection_module
import index.dense as dense_module
from data.errors import UsageError
from data.records import Document
from index import lanes
from index.adding import Writing
from index.cells import Cells
from index.coded import CodedTokens, LateSearch
from index.coding import DRIFT, Coding, encode, write_coded
from index.collection import Collection
from index.maxsim import maxsim
from index.ragged import Ragged
from index.ranking import Ranked, best
from index.snapshot import Snapshot
from tests.index.toy import (
    QUERIES,
    ToyEncoder,
    build,
    documents,
    hits,
    identify,
    same_hits,
    state,
    take_steps,
    unit_rows,
)

LANGUAGES = ("de", "en", "sw")


def texts(count, dims=32, *, seed=0, topics=60):
    """Make token vectors as encoders make them: each near one of some topics, and every language in its own cone."""
    rng = np.random.default_rng(seed)
    centers = unit_rows(rng, topics, dims)
    cones = unit_rows(rng, len(LANGUAGES), dims)
    codes = rng.integers(0, len(LANGUAGES), count).astype(np.uint16)
    made = []
    for code in codes:
        tokens = centers[rng.integers(0, topics, rng.integers(1, 20))] + 0.7 * cones[code]
        tokens = tokens + rng.standard_normal(tokens.shape) * 0.04
        made.append((tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).astype(np.float16))
    return Ragged.of(made, dims), codes


def offsets(ragged, codes):
    owner = np.repeat(codes, np.diff(ragged.offsets))
    values = ragged.values.astype(np.float32)
    return {name: values[owner == i].mean(axis=0) for i, name in enumerate(LANGUAGES)}


def coded(folder, ragged, codes, *, bits=4, frame=None):
    folder.mkdir(parents=True, exist_ok=True)
    coding = Coding(bits, frame or offsets(ragged, codes))
    write_coded(folder, [(ragged, codes, LANGUAGES, np.arange(len(ragged)))], LANGUAGES, coding)
    return CodedTokens(folder, codes)


def neutral(ragged, codes, frame):
    """Take off each text's offset and bring it back to unit length, in float64."""
    owner = np.repeat(codes, np.diff(ragged.offsets))
    values = ragged.values.astype(np.float64) - np.stack([frame[x] for x in LANGUAGES])[owner]
    return Ragged((values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32), ragged.offsets)


def queries(ragged, count, *, seed=1):
    """Draw queries: some tokens of some texts, a little moved."""
    rng = np.random.default_rng(seed)
    made = []
    for text in rng.choice(len(ragged), count):
        own = ragged[int(text)].astype(np.float32)[: rng.integers(1, 9)]
        moved = own + rng.standard_normal(own.shape) * 0.05
        made.append((moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32))
    return Ragged.of(made, ragged.values.shape[1])


def search(view, asked, k, *, allowed=None, how=None, is_neutral=True):
    allowed = np.ones(len(view), np.bool_) if allowed is None else allowed
    order = np.arange(len(view))
    return view.search(asked, k, allowed=allowed, neutral=is_neutral, how=how or LateSearch(), id_order=order)


def exact(asked, texts_, k):
    rows = np.arange(len(texts_))
    filled = np.diff(texts_.offsets) > 0
    scores = maxsim(asked, texts_)
    return [best(rows[filled], s[filled], k, id_order=rows) for s in scores]


def recall(found, wanted):
    return np.mean(
        [len({*a.rows.tolist()} & {*b.rows.tolist()}) / len(b.rows) for a, b in zip(found, wanted, strict=True)]
    )


@pytest.mark.parametrize(("bits", "cosine"), [(2, 0.85), (4, 0.985), (8, 0.9999)])
@pytest.mark.parametrize("dims", [20, 32, 128])
def test_codes_keep_directions(tmp_path, bits, cosine, dims):
    ragged, codes = texts(200, dims)
    frame = offsets(ragged, codes)
    view = coded(tmp_path, ragged, codes, bits=bits)
    raw = view.take(np.arange(len(ragged)))
    assert raw.offsets.tolist() == ragged.offsets.tolist()
    wanted, found = neutral(ragged, codes, frame).values, neutral(raw, codes, frame).values
    assert np.mean(np.einsum("ij,ij->i", wanted, found)) > cosine
    assert np.mean(np.einsum("ij,ij->i", ragged.values.astype(np.float32), raw.values.astype(np.float32))) > cosine


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 8]), st.integers(1, 4))
def test_a_code_says_nothing_of_length(seed, bits, words):
    dims = words * 128 // bits
    vectors = unit_rows(np.random.default_rng(seed), 20, dims)
    codes, _ = encode(vectors, bits)
    again, _ = encode(vectors * np.float32(2.0), bits)
    np.testing.assert_array_equal(codes, again)  # a power of two changes no rounding
    assert codes.shape == (20, dims * bits // 16)
    assert encode(np.zeros((1, dims), np.float32), bits)[1].tolist() == [0]


def test_scores_are_maxsim_of_what_the_codes_say(tmp_path):
    ragged, codes = texts(300)
    frame = offsets(ragged, codes)
    view = coded(tmp_path, ragged, codes)
    asked = queries(ragged, 20)
    raw = view.take(np.arange(len(ragged)))
    for is_neutral, said in ((True, neutral(raw, codes, frame)), (False, raw)):
        scores = maxsim(asked, said)
        for i, ranked in enumerate(search(view, asked, 300, is_neutral=is_neutral)):
            assert len(ranked.rows) == 300
            # take() rounds to float16 and neutral() makes unit vectors of what is a little shorter.
            np.testing.assert_allclose(ranked.scores, scores[i, ranked.rows], rtol=0.01, atol=0.02)
            assert np.all(np.diff(ranked.scores) <= 0)


@pytest.mark.parametrize(("bits", "least"), [(4, 0.85), (8, 0.94)])
def test_a_search_finds_what_exact_maxsim_finds(tmp_path, bits, least):
    ragged, codes = texts(6000, topics=2000)
    frame = offsets(ragged, codes)
    view = coded(tmp_path, ragged, codes, bits=bits)
    texts_ = neutral(ragged, codes, frame)
    asked = queries(texts_, 60)
    found = search(view, asked, 10)
    assert recall(found, exact(asked, texts_, 10)) >= least
    few = search(view, asked, 10, how=LateSearch(cells=1, candidates=20))
    assert recall(few, exact(asked, texts_, 10)) < recall(found, exact(asked, texts_, 10))


def test_more_is_looked_at_where_more_is_wanted(tmp_path):
    ragged, codes = texts(12000, topics=2000)
    view = coded(tmp_path, ragged, codes)
    asked = queries(neutral(ragged, codes, offsets(ragged, codes)), 60)
    wanted = [Ranked(all_.rows[:100], all_.scores[:100]) for all_ in search(view, asked, len(ragged))]
    assert recall(search(view, asked, 100), wanted) > 0.965  # as many candidates as for 10 give .953


def test_one_by_one_in_batches_and_on_any_number_of_threads_gives_the_same_bytes(tmp_path, on_threads):
    ragged, codes = texts(3000, topics=800)
    view = coded(tmp_path, ragged, codes)
    asked = queries(ragged, 30)
    batch = search(view, asked, 10)
    alone = [search(view, asked.take(np.array([i])), 10)[0] for i in range(len(asked))]
    on_threads(7)
    threads = search(view, asked, 10)
    for found in (alone, threads):
        for a, b in zip(batch, found, strict=True):
            assert a.rows.tolist() == b.rows.tolist()
            assert a.scores.tobytes() == b.scores.tobytes()


def test_a_search_leaves_nothing_to_the_next(tmp_path):
    """Memory is kept from search to search, and queries have different numbers of tokens."""
    ragged, codes = texts(3000)
    view = coded(tmp_path, ragged, codes)
    drawn = np.random.default_rng(3).integers(0, len(ragged.values), (40, 30))
    how = LateSearch(2, 40)
    for length in (1, 30, 8, 9, 17, 3, 16):
        for tokens in drawn:
            asked = Ragged.of([np.asarray(ragged.values[tokens[:length]], np.float32)], ragged.dims)
            (here,), (fresh,) = (search(v, asked, 5, how=how) for v in (view, CodedTokens(tmp_path, codes)))
            np.testing.assert_array_equal(here.rows, fresh.rows)


def test_the_same_texts_give_the_same_files(tmp_path, on_threads):
    ragged, codes = texts(2000)
    coded(tmp_path / "a", ragged, codes)
    on_threads(1)
    coded(tmp_path / "b", ragged, codes)
    assert state(tmp_path / "a") == state(tmp_path / "b")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.sampled_from([1, 10, 400]))
def test_a_filter_is_exact_and_never_short(tmp_path_factory, seed, share, k):
    view, asked, said = _shared(tmp_path_factory)
    allowed = np.random.default_rng(seed).random(len(view)) < share
    found = search(view, asked, k, allowed=allowed)
    possible = int(np.count_nonzero(allowed & (np.diff(view.offsets) > 0)))
    for i, ranked in enumerate(found):
        assert len(ranked.rows) == len(set(ranked.rows.tolist())) == min(k, possible)
        assert allowed[ranked.rows].all()
        np.testing.assert_allclose(ranked.scores, said[i, ranked.rows], rtol=0.01, atol=0.02)
    if 0 < possible:
        wanted = np.where(allowed, said, -np.inf).max(axis=1)
        best_found = np.array([ranked.scores[0] for ranked in found])
        assert np.mean(best_found >= wanted - 0.05) >= 0.95


_kept = {}


def _shared(factory):
    if not _kept:
        ragged, codes = texts(4000, topics=1000)
        view = coded(factory.mktemp("filter"), ragged, codes)
        asked = queries(ragged, 20)
        said = maxsim(asked, neutral(view.take(np.arange(len(view))), codes, offsets(ragged, codes)))
        _kept["all"] = view, asked, said
    return _kept["all"]


def test_texts_without_tokens_are_nowhere_and_equal_texts_tie(tmp_path):
    ragged, codes = texts(50)
    parts = [ragged[i] for i in range(50)]
    parts[3] = parts[40] = np.zeros((0, 32), np.float16)
    parts[20], codes[20] = parts[7], codes[7]
    made = Ragged.of(parts, 32)
    view = coded(tmp_path, made, codes)
    for ranked in search(view, queries(ragged, 5), 60):
        assert len(ranked.rows) == 48
        assert not {3, 40} & {*ranked.rows.tolist()}
        at = ranked.rows.tolist().index(20)
        assert ranked.rows[at + 1] == 7  # of equals the greater id first
        assert ranked.scores[at] == ranked.scores[at + 1]


def test_what_is_coded_is_copied_and_what_has_drifted_is_coded_anew(tmp_path):
    ragged, codes = texts(600)
    frame = offsets(ragged, codes)
    view = coded(tmp_path / "a", ragged, codes, frame=frame)
    rows = np.arange(0, 600, 2)
    near = {x: o + np.float32(DRIFT / 2 / np.sqrt(32)) for x, o in frame.items()}
    far = {**frame, "sw": frame["sw"] + np.float32(2 * DRIFT / np.sqrt(32))}
    for name, moved, same in (("b", near, True), ("c", far, False)):
        (tmp_path / name).mkdir()
        write_coded(tmp_path / name, [(view, codes, LANGUAGES, rows)], LANGUAGES, Coding(4, moved))
        copy = CodedTokens(tmp_path / name, codes[rows])
        kept = view.pieces(rows)
        assert np.array_equal(copy.coded.codes, kept[0]) == same
        assert np.array_equal(copy.frame, view.frame) == same
        a, b = view.take(rows), copy.take(np.arange(len(rows)))
        cosines = np.einsum("ij,ij->i", a.values.astype(np.float32), b.values.astype(np.float32))
        assert cosines.min() > 0.93


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 40))
def test_every_token_lies_in_one_cell_near_it(seed, count, cells):
    vectors = unit_rows(np.random.default_rng(seed), count, 16)
    made = Cells.train(lambda some: vectors[some], len(vectors), cells)
    assert 1 <= len(made.centers) <= count
    assert made.starts[-1] == len(made.centers)
    found = made.assign(vectors)
    assert found.max() < len(made.centers)
    np.testing.assert_allclose(np.linalg.norm(made.centers, axis=1), 1, atol=1e-5)
    own = np.einsum("ij,ij->i", vectors, made.centers[found])
    assert np.mean(own >= np.median(vectors @ made.centers.T, axis=1) - 1e-5) > 0.8


def test_cells_list_each_text_once(tmp_path):
    ragged, codes = texts(500)
    coded(tmp_path, ragged, codes)
    starts, listed = np.load(tmp_path / "late.starts.npy"), np.load(tmp_path / "late.texts.npy")
    cells = np.load(tmp_path / "late.cells.npy")
    owner = np.repeat(np.arange(500), np.diff(ragged.offsets))
    for cell in range(len(starts) - 1):
        assert listed[starts[cell] : starts[cell + 1]].tolist() == sorted({*owner[cells == cell].tolist()})


def test_what_is_warmed_is_what_is_searched(tmp_path):
    """When a segment is written its languages may be, when it is opened they are mapped: two types for Numba."""
    ragged, codes = texts(20)
    view = coded(tmp_path, ragged, codes)
    languages = codes.astype(np.uint16)
    assert languages.flags.writeable
    assert numba.typeof(CodedTokens(tmp_path, languages).coded) == numba.typeof(view.coded)
    languages.setflags(write=False)
    assert numba.typeof(CodedTokens(tmp_path, languages).coded) == numba.typeof(view.coded)


def test_lanes_do_not_matter(tmp_path):
    """Queries of every number of tokens, so that padding shows."""
    ragged, codes = texts(100)
    view = coded(tmp_path, ragged, codes, bits=8)
    said = neutral(view.take(np.arange(100)), codes, offsets(ragged, codes))
    vectors = unit_rows(np.random.default_rng(5), 3 * lanes.LANES + 1, 32)
    for tokens in range(1, len(vectors) + 1):
        asked = Ragged.of([vectors[:tokens]], 32)
        (found,) = search(view, asked, 100)
        np.testing.assert_allclose(found.scores, maxsim(asked, said)[0, found.rows], rtol=0.01, atol=0.02)


# Collections


@pytest.fixture
def small_views(monkeypatch):
    """Code the late view from 100 tokens on."""
    monkeypatch.setitem(collection_module.WHOLE, "late", 100)


WRITING = Writing(ToyEncoder(), identify)


def coded_tokens(snapshot):
    return [
        int(x.offsets[-1]) if isinstance(x := segment.vectors["late"], CodedTokens) else 0
        for segment in snapshot.segments
    ]


def late_folders(folder):
    return sorted(p.name for p in (folder / "segments").iterdir() if (p / "late.codes.npy").exists())


def test_an_add_codes_what_is_large_and_keeps_what_is_small_exact(tmp_path, small_views, small_batches):
    made = documents(120)
    snapshot = build(tmp_path / "c", made[:100])
    for start in range(100, 121, 4):
        assert sum(coded_tokens(snapshot)) > 400
        assert sum(snapshot.waiting("late")) <= 100
        assert len(late_folders(tmp_path / "c")) <= 4
        Collection(tmp_path / "c").add(made[start : start + 4], WRITING)
        snapshot = Snapshot.open(tmp_path / "c")
    assert len(snapshot) == 120
    assert Collection(tmp_path / "c").verify() == []
    assert sum(coded_tokens(snapshot)) + sum(snapshot.waiting("late")) == sum(len(d.text.split()) for d in made)


def test_what_was_killed_before_coding_is_coded_by_the_next_run(tmp_path, small_views, monkeypatch):
    made = documents(60)
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "_code", lambda self: None)
        build(tmp_path / "c", made)
    assert late_folders(tmp_path / "c") == []
    report = Collection(tmp_path / "c").add(made, WRITING)
    assert (report.unchanged, len(late_folders(tmp_path / "c"))) == (60, 1)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "delete", "compact"]), st.integers(0, 50)), max_size=8))
def test_adds_deletes_and_compacts_find_what_a_fresh_build_finds(tmp_path_factory, steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(collection_module.WHOLE, "late", 100)
        folder = tmp_path_factory.mktemp("steps")
        live = take_steps(folder / "c", steps, 200, first=60, added=25, deleted=10)
        snapshot = Snapshot.open(folder / "c")
        assert sorted(snapshot.ids(np.flatnonzero(snapshot.live))) == sorted(d.id for d in live)
        patch.setitem(collection_module.WHOLE, "late", 1 << 30)
        fresh = build(folder / "fresh", live)
        found, wanted = hits(snapshot, k=len(live)), hits(fresh, k=len(live))
        for asked in (x for x in wanted if x[0].startswith("late True")):
            a, b = dict(found[asked]), dict(wanted[asked])
            assert a.keys() == b.keys()
            # Rounding, and offsets that may lag: the ranking as a whole is the same.
            scores = np.array([[a[x], b[x]] for x in a])
            if len(scores) > 10 and scores[:, 1].std() > 0.1:
                assert np.corrcoef(scores.T)[0, 1] > 0.9
        same_hits(
            {x: y for x, y in found.items() if not x[0].startswith("late")},
            {x: y for x, y in wanted.items() if not x[0].startswith("late")},
        )


def test_deleted_documents_are_gone_at_once_and_centroids_are_those_of_the_rest(tmp_path, small_views):
    made = documents(80)
    build(tmp_path / "c", made)
    collection = Collection(tmp_path / "c")
    before = Snapshot.open(tmp_path / "c")
    first = hits(before)[("late True", "a cat and a dog")][0][0]
    collection.delete([first, *(d.id for d in made[40:])])
    after = Snapshot.open(tmp_path / "c")
    assert first not in dict(hits(after)[("late True", "a cat and a dog")])
    lagging = {x: after.centroids("late").offset(x) for x in after.language_counts}
    collection.compact()
    compacted = Snapshot.open(tmp_path / "c")
    assert late_folders(tmp_path / "c")
    for name, offset in lagging.items():
        np.testing.assert_allclose(offset, compacted.centroids("late").offset(name), atol=0.02)


def test_a_collection_that_becomes_multilingual_is_coded_anew(tmp_path, small_views):
    build(tmp_path / "c", documents(60, languages=("en",)))
    alone = Snapshot.open(tmp_path / "c")
    np.testing.assert_array_equal(alone.segments[0].vectors["late"].frame, 0)
    assert not alone.drifted
    found = hits(alone)  # in one language the switch changes nothing, to the last bit
    for text, language in QUERIES[:2]:
        if language == "en":
            assert found[("late True", text)] == found[("late False", text)] != []
    others = documents(20, languages=("de", "th", "ar"), prefix="x", seed=3)
    Collection(tmp_path / "c").add(others[:4], WRITING)
    Collection(tmp_path / "c").add(others[4:], WRITING)
    collection = Collection(tmp_path / "c")
    collection.compact()
    mixed = Snapshot.open(tmp_path / "c")
    assert not mixed.drifted
    assert np.abs(mixed.segments[0].vectors["late"].frame).max() > DRIFT


def test_threads_search_while_one_adds(tmp_path, small_views, monkeypatch):
    monkeypatch.setitem(collection_module.WHOLE, "dense", 100)  # the dense view has inverted files too
    monkeypatch.setattr(dense_module, "FEW", 0)
    made = documents(400)
    build(tmp_path / "c", made[:200])
    problems, stop = [], threading.Event()

    def work():
        try:
            while not stop.is_set():
                snapshot = Snapshot.open(tmp_path / "c")
                first, second = hits(snapshot), hits(snapshot)
                assert first == second
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for start in range(200, 400, 40):
        Collection(tmp_path / "c").add(made[start : start + 40], WRITING)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    snapshot = Snapshot.open(tmp_path / "c")
    assert len(snapshot) == 400
    assert snapshot.segments[0].inverted is not None


def test_an_open_snapshot_outlives_the_files_of_its_codes(tmp_path, small_views):
    made = documents(80)
    snapshot = build(tmp_path / "c", made)
    before = hits(snapshot)
    shutil.rmtree(tmp_path / "c" / "segments")
    assert hits(snapshot) == before


def test_a_coded_segment_may_lose_all_its_tokens(tmp_path, small_views):
    made = documents(60)
    build(tmp_path / "c", [*made, Document("empty", "")])
    collection = Collection(tmp_path / "c")
    collection.delete([d.id for d in made])
    collection.compact()
    snapshot = Snapshot.open(tmp_path / "c")
    assert (len(snapshot), coded_tokens(snapshot)) == (1, [0])
    assert hits(snapshot)[("late True", "a cat and a dog")] == []
    assert collection.verify() == []


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bits_are_chosen_at_creation_and_kept(tmp_path, small_views, bits):
    collection = Collection.create(tmp_path / "c", ["late"], ToyEncoder(), late_bits=bits)
    collection.add(documents(60), WRITING)
    collection.compact()
    assert Snapshot.open(tmp_path / "c").segments[0].vectors["late"].bits == bits
    with pytest.raises(UsageError, match="3 bits"):
        Collection.create(tmp_path / "d", ["late"], ToyEncoder(), late_bits=3)


def test_a_query_in_a_language_that_is_not_coded(tmp_path, small_views):
    snapshot = build(tmp_path / "c", [*documents(60, languages=("de", "en")), Document("t", "สุนัข แมว", lang="th")])
    assert dict(hits(snapshot)[("late True", "สุนัข แมว")])["t"] == max(
        dict(hits(snapshot)[("late True", "สุนัข แมว")]).values()
    )
