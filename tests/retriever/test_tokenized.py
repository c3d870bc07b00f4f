"""Texts as tokens, against the model's own `preprocess` of each text alone."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retriever import tokenized as module
from retriever.tokenized import Adapted, Tokenized, Window, tokenize

TEXTS = [
    "The coral reef turns white.",
    "海水变暖时珊瑚会变白。",
    "",
    "a",
    "The coral reef turns white.",
    "👩‍👩‍👧 🪸",
    " \n",
]
LONG = "Bahari ikipata joto, 海水变暖 the reef turns white. " * 30


def made(tiny, texts, task="document"):
    given = [Adapted(text) for text in texts]
    return tokenize(given, tiny._model, task=task, prompt=tiny._prompt(task), limit=tiny._limit(task))


def test_tokens_are_those_of_each_text_alone(tiny):
    for task in ("query", "document"):
        found = made(tiny, TEXTS, task)
        differing = list(dict.fromkeys(TEXTS))
        assert [differing[owner] for owner in found.owners] == TEXTS
        assert [differing[window.text] for window in found.windows] == [t for t in differing if t.strip()]
        for window in found.windows:
            alone = tiny._model.preprocess([differing[window.text]], prompt=tiny._prompt(task), task=task)
            assert window.features["input_ids"].tolist() == alone["input_ids"][0].tolist()
            assert window.tokens == int(alone["attention_mask"].sum())


def test_equal_texts_are_tokenized_and_encoded_once(tiny):
    found = made(tiny, ["reef", "sea"] * 50 + [LONG] * 3)
    assert (found.differing, found.split) == (3, 3)
    assert found.tokens == made(tiny, ["reef", "sea", LONG]).tokens
    done = []
    vectors = tiny.encode(found, done.append)
    assert sum(done) == found.tokens
    assert len(vectors.dense) == len(vectors.late) == 103
    assert (vectors.dense[0::2][:50] == vectors.dense[0]).all()


def test_windows_of_a_long_text_stand_in_its_order(tiny):
    found = made(tiny, [LONG, "a", LONG[:-30]])
    texts = [tiny._model.tokenizer.decode(w.features["input_ids"], skip_special_tokens=True) for w in found.windows]
    whole = "".join(t.removeprefix("passage: ") for t, w in zip(texts, found.windows, strict=True) if w.text == 0)
    assert whole.replace(" ", "") == LONG.replace(" ", "")
    assert max(window.tokens for window in found.windows) <= tiny._limit("document")


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_what_preprocess_makes_of_its_texts(tiny, side):
    model = copy.copy(tiny._model)
    before = model.tokenizer.padding_side
    model.tokenizer.padding_side = side
    try:
        texts = ["The coral reef turns white.", "a", "海水变暖时珊瑚会变白。"]
        found = tokenize([Adapted(text) for text in texts], model, task="document", prompt="passage: ", limit=64)
        batch = found.features([0, 1, 2], model.tokenizer)
        wanted = model.preprocess(texts, prompt="passage: ", task="document")
    finally:
        model.tokenizer.padding_side = before
    assert batch.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(batch[name], value) if isinstance(value, torch.Tensor) else batch[name] == value


@given(
    lengths=st.lists(st.integers(1, 64), max_size=80),
    tokens=st.integers(1, 300),
    size=st.none() | st.integers(1, 9),
    fills=st.booleans(),
)
def test_batches_hold_every_window_once_within_bounds(lengths, tokens, size, fills):
    windows = [Window(n, {"input_ids": torch.ones(length)}) for n, length in enumerate(lengths)]
    found = Tokenized(range(len(lengths)), len(lengths), windows, {})
    batches = list(found.batches(tokens, size, fills=fills))
    assert sorted(w for batch in batches for w in batch) == list(range(len(lengths)))
    for batch in batches:
        longest, read = max(lengths[w] for w in batch), sum(lengths[w] for w in batch)
        assert len(batch) == 1 or longest * len(batch) <= tokens
        assert size is None or len(batch) <= size
        last = lengths[batch[-1]]
        if fills and len(batch) > 1 and read - last > tokens // 4:
            assert longest * len(batch) <= (1 + module.FILLED) * read
    assert [lengths[batch[0]] for batch in batches] == sorted((lengths[b[0]] for b in batches), reverse=True)
