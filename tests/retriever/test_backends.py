"""Every backend makes the vectors that PyTorch makes in float32, as near as its arithmetic allows."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from data.errors import EncoderError, UsageError
from index.manifest import check_fingerprint
from retriever import backends as module
from retriever.backends import BACKENDS
from retriever.bert import FEW
from retriever.encoder import Encoder

TEXTS = [
    "The coral reef turns white.",
    "海水变暖时珊瑚会变白。" * 20,
    "ปะการังฟอกขาวเมื่อน้ำทะเลอุ่น",
    "تبيض الشعاب المرجانية",
    "",
    "a",
]
ARITHMETIC = {
    "int16": ("int16", 0.9999),
    "torch": ("float32", 0.999999),
    "bf16": ("bfloat16", 0.999),
    "fp16": ("float16", 0.9999),
    "openvino": ("float32 by openvino", 0.999),  # in bfloat16, where there is some
    "openvino-int8": ("int8 by openvino", 0.9),
    "onnx": ("float32 by onnx", 0.999999),
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYSEEK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cosines(a, b):
    return np.sum(a * b, axis=-1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_are_those_of_pytorch(tiny, tiny_folder, backend, cache):
    arithmetic, least = ARITHMETIC[backend]
    encoder = Encoder.load(str(tiny_folder), backend=backend)
    assert encoder.fingerprint["arithmetic"].replace("bfloat16 by", "float32 by") == arithmetic
    assert encoder.fingerprint["weights"] == tiny.fingerprint["weights"]
    for ours, floats in [
        (encoder.encode_documents(TEXTS), tiny.encode_documents(TEXTS)),
        (encoder.encode_queries(TEXTS), tiny.encode_queries(TEXTS)),
    ]:
        assert np.delete(cosines(ours.dense, floats.dense), TEXTS.index("")).mean() > least
        assert cosines(ours.late.values, floats.late.values).mean() > least
        np.testing.assert_array_equal(ours.late.offsets, floats.late.offsets)
        assert (ours.dense.dtype, ours.late.values.dtype) == (np.float32, np.float32)


def test_a_question_alone_in_bfloat16_is_that_of_a_batch(tiny_folder):
    encoder = Encoder.load(str(tiny_folder), backend="bf16")
    questions = [f"what turns coral reef number {n} white?" for n in range(30)]
    tokens = [window.tokens for window in encoder.tokenize(questions).windows]
    assert max(tokens) <= FEW < sum(tokens)
    together = encoder.encode_queries(questions)
    encoder.forget(questions)
    alone = [encoder.encode_queries([question]) for question in questions]
    assert cosines(np.concatenate([one.dense for one in alone]), together.dense).min() > 0.999
    assert cosines(np.concatenate([one.late.values for one in alone]), together.late.values).mean() > 0.999


@pytest.mark.parametrize("backend", ["bf16", "openvino", "onnx"])
def test_models_of_late_interaction_alone(tiny_late, late_folder, backend, cache):
    ours, floats = (
        Encoder.load(str(late_folder), backend=backend).encode_documents(TEXTS),
        tiny_late.encode_documents(TEXTS),
    )
    assert ours.dense is None
    # The mean: the 16 dims of one token may nearly cancel, and 8 bits of mantissa then leave a cosine of .9965.
    assert cosines(ours.late.values, floats.late.values).mean() > ARITHMETIC[backend][1]


@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_a_model_is_converted_once(tiny_folder, backend, cache):
    def times():
        return {path: path.stat().st_mtime_ns for path in cache.rglob("*")}

    Encoder.load(str(tiny_folder), backend=backend)
    made = times()
    assert sum(path.is_file() for path in made) in (1, 2)
    Encoder.load(str(tiny_folder), backend=backend)
    assert times() == made


def test_a_conversion_that_fails_leaves_nothing(tiny_folder, cache, monkeypatch):
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: 1 / 0)
    with pytest.raises(EncoderError, match="cannot load the encoder"):
        Encoder.load(str(tiny_folder), backend="onnx")
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert not any(path.name.startswith(("onnx", ".")) for path in cache.rglob("*"))


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_backend_that_is_not_installed_says_what_to_install(tiny_folder, cache, monkeypatch, backend):
    monkeypatch.setitem(sys.modules, "onnxruntime" if backend == "onnx" else backend, None)
    with pytest.raises(EncoderError, match=rf"pip install 'polyseek\[{backend}\]'"):
        Encoder.load(str(tiny_folder), backend=backend)


def test_a_device_that_is_not_here(tiny_folder):
    for device in ("gpu", "cuda:99", ""):
        with pytest.raises(UsageError, match=f"there is no device '{device}' here"):
            Encoder.load(str(tiny_folder), device=device)


def test_a_checkpoint_in_half_precision_is_computed_in_whole_floats(tiny, tiny_folder, tmp_path):
    half = SentenceTransformer(str(tiny_folder), device="cpu").to(torch.bfloat16)
    half.save_pretrained(str(tmp_path / "half"), create_model_card=False)
    found = {backend: Encoder.load(str(tmp_path / "half"), backend=backend) for backend in ("torch", "int16", "bf16")}
    assert [e.fingerprint["arithmetic"] for e in found.values()] == ["float32", "int16", "bfloat16"]
    floats = found["torch"].encode_documents(TEXTS[:4]).dense
    assert cosines(found["int16"].encode_documents(TEXTS[:4]).dense, floats).min() > 0.9999
    assert cosines(tiny.encode_documents(TEXTS[:4]).dense, floats).min() > 0.99


def test_large_batches_as_on_a_graphics_card_give_the_same(tiny_folder, monkeypatch):
    texts = [f"{'reef ' * (n % 9)}{n}" for n in range(300)]
    small = Encoder.load(str(tiny_folder), backend="fp16")
    monkeypatch.setitem(module.TOKENS, "cpu", module.TOKENS["card"])
    large = Encoder.load(str(tiny_folder), backend="fp16")
    batches = [list(e.tokenize(texts).batches(e._tokens, None)) for e in (small, large)]
    assert len(batches[0]) > len(batches[1]) == 1
    one, other = (e.encode_documents(texts) for e in (small, large))
    assert cosines(one.dense, other.dense).min() > 0.9999
    assert cosines(one.late.values, other.late.values).min() > 0.9999


def test_vectors_of_arithmetics_far_apart_are_not_mixed(tiny, tmp_path):
    far = {**tiny.fingerprint, "arithmetic": "int1", "probe": tiny.fingerprint["probe"][::-1]}
    near = {**tiny.fingerprint, "arithmetic": "float64"}
    check_fingerprint(tmp_path, tiny.fingerprint, near)
    with pytest.raises(Exception, match="was built with the encoder"):
        check_fingerprint(tmp_path, tiny.fingerprint, far)


def test_standard_output_carries_no_word_of_a_conversion(tiny_folder, tmp_path):
    code = f"from retriever.encoder import Encoder; Encoder.load({str(tiny_folder)!r}, backend='openvino-int8')"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"POLYSEEK_CACHE": str(tmp_path), "HOME": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert told.stdout == ""
    assert list(tmp_path.rglob("openvino-int8-*"))


GROWS = """
import sys
from retriever.encoder import Encoder, _give_back

encoder = Encoder.load(sys.argv[1], backend="bf16")

def own_kb(lengths):
    for length in lengths:
        for texts in (1, 2, 3):
            encoder.encode_documents([" ".join(["reef"] * length) + f" {i}" for i in range(texts)])
    _give_back()
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

own_kb(range(20, 60))
first = own_kb(range(60, 120))
print(own_kb(range(120, 180)) - first)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_every_shape_of_a_batch(tiny_folder):
    clean = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
    told = subprocess.run(
        [sys.executable, "-c", GROWS, str(tiny_folder)], check=True, capture_output=True, text=True, env=clean
    )
    assert int(told.stdout) < 2000  # 4,100 with PyTorch's own 1,024 shapes
