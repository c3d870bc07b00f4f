import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from retriever.windows import split
from tests.tiny import LINES

PROMPT = "passage: "


@pytest.fixture(scope="module")
def byte_level():
    """A tokenizer of bytes, as GPT's: several tokens begin at the same character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<e>"], show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <e>", special_tokens=[("<e>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<e>", pad_token="<e>")


@pytest.fixture(params=["unigram", "bytes"])
def tokenizer(request, tiny, byte_level):
    return {"unigram": tiny._model.tokenizer, "bytes": byte_level}[request.param]


PIECES = ["a", "b ", "reef ", "é", "e\u0301", "\u0301", "\u200d", "😀", "👩‍👧", " ", "\n", "ខ្ញុំ", "ปะ", "海", "\ufdfa",
          "</s>", "\U00013000", "ﬃ", "\ufeff", "▁", "x" * 30]  # fmt: skip


def check(text, tokenizer, limit):
    windows = split(text, prompt=PROMPT, tokenizer=tokenizer, limit=limit)
    at = 0
    for window in windows:  # in order, nothing twice, and nothing but white space between them
        begin = text.index(window, at)
        assert not text[at:begin].strip()
        at = begin + len(window)
        assert len(tokenizer(PROMPT + window)["input_ids"]) <= limit
    assert not text[at:].strip()
    return windows


@settings(deadline=None, max_examples=200)
@given(text=st.lists(st.sampled_from(PIECES), max_size=60).map("".join), limit=st.integers(40, 60))
def test_every_character_is_in_one_window_that_fits(tiny, byte_level, text, limit):
    if text.strip():
        check(text, tiny._model.tokenizer, limit)
        check(text, byte_level, limit)


@settings(deadline=None, max_examples=100)
@given(text=st.text(min_size=1, max_size=100).filter(str.strip))
def test_every_character_of_any_text_is_in_one_window(tiny, text):
    check(text, tiny._model.tokenizer, 40)


def test_a_text_that_fits_is_one_window(tokenizer):
    (window,) = split("reef", prompt=PROMPT, tokenizer=tokenizer, limit=64)
    assert window == "reef"


def test_words_stay_whole(tokenizer):
    text = "coral reefs turn white " * 100
    windows = check(text, tokenizer, 64)
    assert len(windows) > 5
    assert {word for window in windows for word in window.split()} == {"coral", "reefs", "turn", "white"}


def test_windows_are_filled(tokenizer):
    text = "海水变暖时珊瑚会变白狐狸跳过篱笆" * 50
    windows = check(text, tokenizer, 64)
    assert min(len(tokenizer(PROMPT + window)["input_ids"]) for window in windows[:-1]) > 45


@pytest.mark.parametrize("piece", ["abcdefghij", "👩‍👩‍👧😀", "海水变暖时", "e\u0301", "ខ្ញុំ", "a", "\u0301"])
def test_the_time_is_linear_in_a_text_without_blanks(tiny, piece):
    tokenizer = tiny._model.tokenizer

    def seconds(length):
        text = piece * (length // len(piece))
        began = time.perf_counter()
        windows = split(text, prompt=PROMPT, tokenizer=tokenizer, limit=64)
        elapsed = time.perf_counter() - began
        assert "".join(windows) == text
        return elapsed

    short = max(min(seconds(20_000) for _ in range(2)), 0.02)
    assert seconds(160_000) < 8 * short * 4  # 8 times longer; quadratic would be 64


def test_two_megabytes_without_blanks(tiny):
    text = "thecoralreefturnswhite" * 100_000
    windows = split(text, prompt=PROMPT, tokenizer=tiny._model.tokenizer, limit=512)
    assert "".join(windows) == text
