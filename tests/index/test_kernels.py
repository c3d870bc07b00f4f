"""The loops of late interaction against the same in NumPy, number for number where they are whole."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from index import kernels, lanes, packing
from index.coded import EVERYWHERE
from index.packing import Coded

SEEDS = st.integers(0, 2**32 - 1)
TOKENS = st.integers(1, 40)


def unit_rows(rng, count, dims):
    rows = rng.standard_normal((count, dims)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def whole(vectors):
    return np.rint(vectors * lanes.ONE).astype(np.int64)


def asked(vectors):
    """Put vectors into blocks as they are."""
    blocks = np.full((-(-len(vectors) // 8), vectors.shape[1] // 2, 16), 0, np.int16)
    kernels.rotate(vectors, np.eye(vectors.shape[1], dtype=np.float32), blocks)
    return blocks


def levels_of(rng, cells, tokens):
    """Return levels of cells for padded tokens, as `compare` leaves them."""
    levels = np.zeros((cells, -(-tokens // 16) * 16), np.uint8)
    levels[:, :tokens] = rng.integers(0, 256, (cells, tokens))
    return levels


def some_texts(rng, lengths, bits, dims, cells=7):
    total = sum(lengths)
    codes, widths = np.empty((total, dims * bits // 16), np.uint16), np.empty(total, np.uint16)
    packing.encode(unit_rows(rng, total, dims), bits, codes, widths)
    return Coded(
        codes=codes,
        bits=bits,
        widths=widths,
        lengths=rng.integers(8000, 30000, total).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        languages=rng.integers(0, 2, len(lengths)).astype(np.uint16),
        cells=rng.integers(0, cells, total).astype(np.uint16),
        starts=np.zeros(1, np.int64),
        texts=np.zeros(0, np.uint32),
    )


@settings(max_examples=40, deadline=None)
@given(SEEDS, TOKENS, st.integers(1, 5), st.integers(1, 3))
def test_a_query_is_rotated_into_blocks(seed, tokens, dims, groups):
    rng = np.random.default_rng(seed)
    vectors = unit_rows(rng, tokens, dims)
    rotation = rng.standard_normal((dims, 8 * groups)).astype(np.float32) / 3
    blocks = np.zeros((-(-tokens // 8), 4 * groups, 16), np.int16)
    kernels.rotate(vectors, rotation, blocks)
    rows = blocks.reshape(-1, 4 * groups, 8, 2).transpose(0, 2, 1, 3).reshape(-1, 8 * groups)
    assert not rows[tokens:].any()
    wanted = np.clip(vectors.astype(np.float64) @ rotation, -1, 1) * lanes.ONE
    np.testing.assert_allclose(rows[:tokens], wanted, atol=0.51)


@settings(max_examples=60, deadline=None)
@given(SEEDS, TOKENS, st.integers(1, 30), st.integers(1, 6), st.data())
def test_cells_are_compared_exactly(seed, tokens, cells, groups, data):
    most = data.draw(st.integers(1, cells))
    rng = np.random.default_rng(seed)
    query, centers = unit_rows(rng, tokens, 8 * groups), unit_rows(rng, cells, 8 * groups)
    centers[rng.integers(0, cells)] = query[0]
    padded = np.zeros((-(-cells // 4) * 4, 8 * groups), np.int16)
    padded[:cells] = whole(centers)
    lanes_padded = -(-tokens // 8) * 8
    levels = np.zeros((len(padded), -(-lanes_padded // 16) * 16), np.uint8)
    scores, names = np.empty((lanes_padded, most), np.int32), np.empty((lanes_padded, most), np.int64)
    kernels.compare(asked(query), padded, cells, levels, scores, names)
    wanted = whole(query) @ whole(centers).T
    np.testing.assert_array_equal(levels[:cells, :tokens], np.clip(wanted >> 22, 0, 255).T)
    assert not levels[:, tokens:].any()
    order = np.argsort(-wanted, axis=1, kind="stable")[:, :most]
    np.testing.assert_array_equal(names[:tokens], order)
    np.testing.assert_array_equal(scores[:tokens], np.take_along_axis(wanted, order, axis=1))


def test_cells_on_the_other_side_are_found_too(dims=128, cells=200):
    """Rounding puts some of them further off than -1."""
    rng = np.random.default_rng(0)
    centers = unit_rows(rng, cells, dims).astype(np.float16).astype(np.float32)
    for query in range(0, cells, 9):
        levels = np.zeros((cells, 16), np.uint8)
        scores, names = np.empty((8, cells), np.int32), np.full((8, cells), 123456789, np.int64)
        opposite = asked(-centers[query : query + 1] / np.linalg.norm(centers[query]))
        kernels.compare(opposite, whole(centers).astype(np.int16), cells, levels, scores, names)
        assert sorted(names[0]) == list(range(cells))
        assert names[0, -1] == query


@settings(max_examples=40, deadline=None)
@given(SEEDS, TOKENS, st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_cells_interact_as_plaid_has_it(seed, tokens, lengths):
    rng = np.random.default_rng(seed)
    coded, levels = some_texts(rng, lengths, 4, 32), levels_of(rng, 7, tokens)
    bonus, rows = rng.standard_normal(2).astype(np.float32), rng.permutation(len(lengths))
    out = np.empty(len(rows), np.float32)
    kernels.interact(levels, bonus, coded, rows, out)
    for row, score in zip(rows, out, strict=True):
        own = levels[coded.cells[coded.offsets[row] : coded.offsets[row + 1]]].astype(np.int64)
        best = own.max(axis=0).sum() / 256 if len(own) else 0
        np.testing.assert_allclose(score, best + bonus[coded.languages[row]], rtol=1e-5, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(
    SEEDS, st.sampled_from([2, 4, 8]), st.integers(1, 3), TOKENS, st.lists(st.integers(1, 9), min_size=1, max_size=70),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_maxsim_is_that_of_the_codes(seed, bits, words, tokens, lengths, neutral, near):
    """Over all tokens, or those in the cell nearest to a query token; groups of texts and of tokens show no seam."""
    rng = np.random.default_rng(seed)
    coded = some_texts(rng, lengths, bits, 128 // bits * words)
    query = unit_rows(rng, tokens, 128 // bits * words)
    bias = np.zeros((2, -(-tokens // 8) * 8), np.float32)
    if not neutral:
        bias[:, :tokens] = rng.standard_normal((2, tokens)) / 10
    levels = levels_of(rng, 7, tokens) if near else EVERYWHERE
    rows, out = rng.permutation(len(lengths)), np.empty(len(lengths), np.float32)
    kernels.maxsim(asked(query), bias, coded, neutral, levels, rows, out)

    said = np.empty((len(coded.codes), query.shape[1]), np.float32)
    packing.decode(coded.codes, bits, coded.widths, said)
    if not neutral:
        said *= coded.lengths[:, None] / np.float32(packing.FIXED)
    for row, score in zip(rows, out, strict=True):
        own = slice(coded.offsets[row], coded.offsets[row + 1])
        similar = query.astype(np.float64) @ said[own].T
        if near:
            bars = np.maximum(levels[coded.cells[own]].max(axis=0), 1)
            similar = similar[:, (levels[coded.cells[own]] >= bars).any(axis=1)]
        wanted = (similar.max(axis=1) + bias[coded.languages[row], :tokens]).sum()
        np.testing.assert_allclose(score, wanted, rtol=1e-4, atol=1e-3)
