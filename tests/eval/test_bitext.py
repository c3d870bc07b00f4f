"""Bitext retrieval: by hand, beside scikit-learn, and the bundled model on real pairs."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from data.errors import InputError, NotFoundError
from eval.bitext import evaluate_bitext, f1, files_of, nearest, read_pairs

TATOEBA = Path(__file__).parents[3] / "shared" / "data" / "tatoeba"
PAIRS = {
    "deu": [("Die Katze schläft.", "The cat is sleeping."), ("Morgen regnet es.", "It will rain tomorrow."),
            ("Wo ist der Bahnhof?", "Where is the station?")],
    "tha": [("แมวกำลังนอนหลับ", "The cat is sleeping."), ("พรุ่งนี้ฝนจะตก", "It will rain tomorrow."),
            ("สถานีรถไฟอยู่ที่ไหน", "Where is the station?")],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, pairs in PAIRS.items():
        text = "".join(f"{one}\t{other}\n" for one, other in pairs)
        (tmp_path / f"{name}.tsv").write_text(text, encoding="utf-8")
    return tmp_path


@given(st.lists(st.integers(0, 11), min_size=12, max_size=12))
def test_f1_is_that_of_scikit_learn(found):
    wanted = f1_score(range(12), found, average="weighted", zero_division=0)
    assert f1(np.array(found)) == pytest.approx(wanted)


def test_the_nearest_by_hand():
    asked = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    among = np.array([[0, 1], [1, 0], [0.6, 0.8], [0.6, 0.8]], np.float32)
    assert nearest(asked, among).tolist() == [1, 0, 2]
    rng = np.random.default_rng(0)
    many, others = rng.standard_normal((2500, 4)), rng.standard_normal((40, 4))
    assert nearest(many, others).tolist() == (many @ others.T).argmax(axis=1).tolist()


def test_translations_are_found_both_ways(folder, encoder):
    seen = []
    found = evaluate_bitext([folder], encoder, seen.append)
    assert seen == list(found["pairs"]) == ["deu", "tha"]
    for own in found["systems"].values():
        assert own["files"]["deu"] == {"forward": 1.0, "backward": 1.0, "accuracy": 1.0, "F1": 1.0}
        assert own["mean"]["accuracy"] == 1.0
    assert found["pairs"] == {"deu": 3, "tha": 3}


@pytest.mark.shared
@pytest.mark.skipif(not TATOEBA.exists(), reason="the shared data is absent")
def test_tatoeba_is_read_and_german_found(encoder, tmp_path):
    pairs = zip(*read_pairs(TATOEBA / "deu.tsv.gz"), strict=True)
    (tmp_path / "deu.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in islice(pairs, 200)), encoding="utf-8")
    assert evaluate_bitext([tmp_path / "deu.tsv"], encoder)["systems"]["dense"]["mean"]["accuracy"] > 0.97
    assert len(files_of([TATOEBA])) == 112


def test_what_is_no_pair_is_told_with_its_line(tmp_path, tiny_late):
    path = tmp_path / "x.tsv"
    for text, told in (("a\tb\nc\n", "line 2: a sentence, a tab"), ("a\t \n", "line 1"), ("a\tb\tc\n", "line 1")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=told):
            read_pairs(path)
    path.write_bytes(b"a\tb\n\xff\xfe\tb\n")
    with pytest.raises(InputError, match="line 2"):
        read_pairs(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="holds no pairs"):
        read_pairs(path)
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(NotFoundError, match="is no file of pairs and no folder"):
            files_of([wrong])
    with pytest.raises(InputError, match="no sentence vectors"):
        evaluate_bitext([path], tiny_late)


def test_files_of_one_name_are_not_taken_for_each_other(folder, encoder):
    (folder / "other").mkdir()
    (folder / "other" / "deu.tsv").write_text("a\tb\n")
    with pytest.raises(InputError, match="have the same name"):
        evaluate_bitext([folder, folder / "other"], encoder)
