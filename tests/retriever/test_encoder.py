import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask

from data.errors import EncoderError
from retriever import encoder as module
from retriever.bundled import bundled_model
from retriever.encoder import Encoder
from retriever.windows import split

TEXTS = [
    "The coral reef turns white.",
    "Das Riff wird weiß; das Meer ist warm.",
    "海水变暖时珊瑚会变白。",
    "ปะการังฟอกขาวเมื่อน้ำทะเลอุ่น",
    "تبيض الشعاب المرجانية",
    "👩‍👩‍👧 🪸",
    "a",
    "unknown: \U00013000\U00013001",
    "e\u0301 \u0301",
]
LONG = "".join(f"Bahari ikipata joto, 海水变暖 the reef {n} turns white. " for n in range(200))[:10_000]


@pytest.fixture(params=["tiny", "late"])
def any_encoder(request, tiny, tiny_late):
    return {"tiny": tiny, "late": tiny_late}[request.param]


def each(vectors):
    """Return what belongs to each text: its dense vector, if there is one, and its token vectors."""
    dense = vectors.dense if vectors.dense is not None else np.zeros((len(vectors.late), 1), np.float32)
    return [np.concatenate([[0], d, vectors.late[i].ravel()]) for i, d in enumerate(dense)]


def assert_equal(one, other):
    assert [len(x) for x in one] == [len(x) for x in other]
    for x, y in zip(one, other, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_dense_vectors_are_those_of_sentence_transformers(tiny, tiny_folder):
    model = SentenceTransformer(str(tiny_folder), device="cpu")
    np.testing.assert_allclose(tiny.encode_queries(TEXTS).dense, model.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(tiny.encode_documents(TEXTS).dense, model.encode_document(TEXTS), atol=1e-5)


@pytest.mark.parametrize("factor", [1.5, 2.0, 4.0])
def test_token_vectors_are_pooled_as_sentence_transformers_pools_them(tiny, tiny_folder, factor, monkeypatch):
    monkeypatch.setattr(module, "POOLED", 64)
    pooled = Encoder.load(str(tiny_folder), token_pooling=factor, backend="torch")
    assert {key for key in tiny.fingerprint if tiny.fingerprint[key] != pooled.fingerprint[key]} == {"token_pooling"}
    plain, fewer = tiny.encode_documents([*TEXTS, "", LONG]), pooled.encode_documents([*TEXTS, "", LONG])
    np.testing.assert_allclose(plain.dense, fewer.dense, atol=1e-5)
    peer = HierarchicalTokenPooling(factor, num_protected_tokens=0)
    for i in range(len(plain.late)):
        parts = [plain.late[i][at : at + 64] for at in range(0, len(plain.late[i]), 64)]
        wanted = [peer.pool_one(torch.from_numpy(part)).numpy() for part in parts]
        np.testing.assert_allclose(fewer.late[i], np.concatenate([plain.late[i][:0], *wanted]), atol=1e-5)
    assert len(fewer.late.values) < len(plain.late.values) / factor * 1.1 + len(TEXTS)
    np.testing.assert_allclose(
        tiny.encode_queries(TEXTS).late.values, pooled.encode_queries(TEXTS).late.values, atol=1e-5
    )


def test_what_is_not_finite_is_not_pooled(tiny_folder):
    pooled = Encoder.load(str(tiny_folder), token_pooling=2, backend="torch")
    with torch.no_grad():
        next(iter(pooled._model.parameters())).fill_(float("nan"))
    assert np.isnan(pooled.encode_documents(["some words here"]).late.values).any()


def test_dense_vectors_of_the_bundled_model_are_those_of_sentence_transformers(encoder):
    model = SentenceTransformer(str(bundled_model()), device="cpu")
    cosine = np.sum(encoder.encode_queries(TEXTS).dense * model.encode_query(TEXTS), axis=1)
    assert cosine.min() > 0.9999
    cosine = np.sum(encoder.encode_documents(TEXTS).dense * model.encode_document(TEXTS), axis=1)
    assert cosine.min() > 0.9999


def test_late_vectors_are_those_of_the_multi_vector_encoder(tiny_late, late_folder):
    model = MultiVectorEncoder(str(late_folder), device="cpu")
    for ours, theirs in [
        (tiny_late.encode_queries(TEXTS).late, model.encode_query(TEXTS, normalize_embeddings=True)),
        (tiny_late.encode_documents(TEXTS).late, model.encode_document(TEXTS, normalize_embeddings=True)),
    ]:
        assert_equal([ours[i] for i in range(len(ours))], [t.numpy() for t in theirs])
    assert tiny_late.encode_documents(TEXTS).dense is None
    assert tiny_late.dims == {"late": 16}


def test_queries_that_a_model_fills_up_to_one_length_are_not_cut_to_it(backbone, tmp_path):
    # ColBERT's queries all have 32 tokens: shorter ones are filled with [MASK], longer ones would be cut.
    transformer = Transformer(str(backbone))
    transformer.query_expansion = {"strategy": "fixed", "attend": True, "length": 16, "token": "<mask>"}
    dense = Dense(32, 16, bias=False, activation_function=None, module_input_name="token_embeddings")
    model = MultiVectorEncoder(modules=[transformer, dense, MultiVectorMask()], device="cpu")
    model.save_pretrained(str(tmp_path / "colbert"), create_model_card=False)
    filled = Encoder.load(str(tmp_path / "colbert"), backend="torch")
    short, long = "the reef", "the reef turns white when the sea is warm and the fishes leave the reef"
    vectors = filled.encode_queries([short, long]).late
    assert_equal([vectors[0]], [model.encode_query([short], normalize_embeddings=True)[0].numpy()])
    assert len(vectors[0]) == 16
    assert len(vectors[1]) > 16
    assert len(vectors[1]) % 16 == 0


def test_late_vectors_of_a_sentence_transformer_are_those_of_the_text_alone(tiny, tiny_folder):
    model = SentenceTransformer(str(tiny_folder), device="cpu")
    for text in ["the coral reef", "Bahari ikipata joto", "海水变暖时", ": reef", "query: query: reef"]:
        pieces = model.tokenizer.tokenize(text)
        features = model.preprocess(["query: " + text])
        with torch.inference_mode():
            projected = model(features)["token_embeddings"][0]
        # The text's own pieces stand last, before </s>.
        expected = torch.nn.functional.normalize(projected[-1 - len(pieces) : -1], dim=-1).numpy()
        assert "<unk>" not in pieces
        np.testing.assert_allclose(tiny.encode_queries([text]).late[0], expected, atol=1e-5)


def test_unknown_characters_have_no_token_vectors(tiny):
    late = tiny.encode_documents(["reef \U00013000", "reef", "\U00013000\U00013001"]).late
    assert np.diff(late.offsets).tolist()[1:] == [len(late[0]) - 1, 1]  # the blank before them is a piece


def test_all_vectors_have_unit_length(any_encoder):
    for vectors in (any_encoder.encode_documents(TEXTS), any_encoder.encode_queries(TEXTS)):
        assert vectors.late.values.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors.late.values, axis=1), 1, atol=1e-5)
        if vectors.dense is not None:
            np.testing.assert_allclose(np.linalg.norm(vectors.dense, axis=1), 1, atol=1e-5)


def test_queries_and_documents_differ_by_their_prompts(tiny):
    assert not np.allclose(tiny.encode_queries(["reef"]).dense, tiny.encode_documents(["reef"]).dense, atol=1e-3)


def test_a_text_has_the_same_vectors_in_any_company(any_encoder, tiny_folder, late_folder):
    texts = [*TEXTS, LONG[:1500]]
    together = each(any_encoder.encode_documents(texts))
    assert_equal(each(any_encoder.encode_documents(texts[::-1]))[::-1], together)
    assert_equal([each(any_encoder.encode_documents([text]))[0] for text in texts], together)
    folder = tiny_folder if "dense" in any_encoder.dims else late_folder
    assert_equal(each(Encoder.load(str(folder), batch_size=1, backend="torch").encode_documents(texts)), together)
    assert_equal(
        each(Encoder.load(str(folder), batch_size=3, backend="torch").encode_queries(texts)),
        each(any_encoder.encode_queries(texts)),
    )


def test_a_long_text_is_read_to_its_end(any_encoder):
    whole, changed = any_encoder.encode_documents([LONG, LONG[:-20] + "Коралловый риф белый"]).late, 20
    assert len(whole[0]) > 50 * changed
    assert not np.allclose(whole[0][-1], whole[1][-1], atol=1e-3)
    np.testing.assert_allclose(whole[0][:500], whole[1][:500], atol=1e-5)


def test_the_dense_vector_of_a_long_text_is_the_mean_of_its_windows_and_the_first_count_most(tiny):
    seen = []
    tokenized = tiny.tokenize([LONG])
    tiny.encode(tokenized, seen.append)
    assert sum(seen) == tokenized.tokens > 600
    assert tokenized.split == 1
    windows = split(LONG, prompt="passage: ", tokenizer=tiny._model.tokenizer, limit=64)
    assert len(windows) == len(tokenized.windows) > 10
    parts = tiny.encode_documents(windows)
    weights = np.diff(parts.late.offsets) / 2.0 ** np.arange(len(windows))
    mean = (parts.dense * weights[:, None]).sum(axis=0)
    whole = tiny.encode_documents([LONG])
    np.testing.assert_allclose(whole.dense[0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(whole.late.values, parts.late.values, atol=1e-5)


def test_empty_and_blank_texts_have_no_vectors(any_encoder):
    vectors = any_encoder.encode_documents(["", "reef", " \t\n\u3000"])
    assert np.diff(vectors.late.offsets).tolist()[::2] == [0, 0]
    assert len(vectors.late[1]) > 0
    if vectors.dense is not None:
        assert np.abs(vectors.dense).sum(axis=1)[::2].tolist() == [0, 0]
    nothing = any_encoder.encode_queries([])
    assert (len(nothing.late), nothing.late.values.shape[1]) == (0, 16)
    assert nothing.dense is None or nothing.dense.shape == (0, 32)


def test_recent_queries_are_kept_and_equal(tiny_folder, monkeypatch):
    encoder = Encoder.load(str(tiny_folder), backend="torch")
    first = encoder.encode_queries(["reef", "warm", "reef"])
    np.testing.assert_array_equal(first.dense[0], first.dense[2])
    again = encoder.encode_queries(["warm", "reef"])
    np.testing.assert_array_equal(again.dense, first.dense[1::-1])
    again.dense[:] = 0  # what a caller does to its vectors is no matter of the next caller
    again.late.values[:] = 0
    assert_equal(each(encoder.encode_queries(["reef", "warm", "reef"])), each(first))


def test_what_is_kept_of_queries_is_bounded(tiny_folder, monkeypatch):
    monkeypatch.setattr(module, "QUERIES_CACHED", 8)
    encoder = Encoder.load(str(tiny_folder), backend="torch")
    many = encoder.encode_queries([f"reef {n}" for n in range(50)])
    assert len(many.dense) == 50
    assert [one.text for one in encoder._cache] == [f"reef {n}" for n in range(42, 50)]
    encoder.encode_queries(["reef 42", LONG])
    assert "reef 42" == list(encoder._cache)[-1].text
    assert LONG not in {one.text for one in encoder._cache}


def test_eight_threads_get_what_one_gets(tiny_folder):
    encoder = Encoder.load(str(tiny_folder), backend="torch")
    texts = [f"{text} {n}" for n in range(8) for text in TEXTS]
    alone = {text: x for text, x in zip(texts, each(encoder.encode_documents(texts)), strict=True)}
    asked = {
        text: x
        for text, x in zip(
            texts, each(Encoder.load(str(tiny_folder), backend="torch").encode_queries(texts)), strict=True
        )
    }

    def work(n):
        for start in range(0, len(texts), 6):
            some = (texts[n:] + texts[:n])[start : start + 6]
            assert_equal(each(encoder.encode_documents(some)), [alone[text] for text in some])
            assert_equal(each(encoder.encode_queries(some)), [asked[text] for text in some])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_the_fingerprint_of_a_copy_differs_in_the_name_alone(tiny, tiny_folder, tmp_path):
    copy = shutil.copytree(tiny_folder, tmp_path / "kopie é")
    moved = Encoder.load(str(copy), backend="torch").fingerprint
    assert {**moved, "model": ""} == {**tiny.fingerprint, "model": ""}
    assert json.loads(json.dumps(moved)) == moved
    assert moved["model"] == str(copy)


def test_a_relative_folder_is_remembered_in_full(tiny_folder, monkeypatch):
    monkeypatch.chdir(tiny_folder.parent)
    assert Encoder.load(tiny_folder.name, backend="torch").fingerprint["model"] == str(tiny_folder.resolve())


def test_other_weights_prompts_or_pooling_are_another_model(tiny, tiny_folder, tmp_path):
    changed = {}
    model = SentenceTransformer(str(tiny_folder), device="cpu")
    with torch.no_grad():
        model[0].model.encoder.layer[1].output.dense.bias[0] += 0.01
    model.save_pretrained(str(tmp_path / "weights"), create_model_card=False)
    changed["weights"] = tmp_path / "weights"
    for name, file, old, new in [
        ("prompts", "config_sentence_transformers.json", "passage: ", "text: "),
        ("pooling", "1_Pooling/config.json", '"mean"', '"cls"'),
    ]:
        changed[name] = shutil.copytree(tiny_folder, tmp_path / name)
        path = changed[name] / file
        path.write_text(path.read_text().replace(old, new))
    for name, folder in changed.items():
        found = Encoder.load(str(folder), backend="torch").fingerprint
        assert {key for key in found if found[key] != tiny.fingerprint[key]} - {"probe"} == {"model", name}


def test_a_checkpoint_that_lacks_unused_weights_is_the_same_model_at_every_loading(backbone):
    # The backbone has no pooler, and transformers makes one up, at random.
    assert Encoder.load(str(backbone)).fingerprint == Encoder.load(str(backbone)).fingerprint


def test_centroids_come_with_the_folder(tiny, tiny_folder, tmp_path):
    assert tiny.priors == {}
    folder = shutil.copytree(tiny_folder, tmp_path / "with")
    (folder / "polyseek").mkdir()
    (folder / "polyseek" / "centroids.json").write_text('{"languages": ["de", "sw"]}')
    for view, dims in tiny.dims.items():
        np.save(folder / "polyseek" / f"centroids.{view}.npy", np.ones((2, dims), np.float32))
    priors = Encoder.load(str(folder)).priors
    assert {view: (prior.languages, prior.means.shape[1]) for view, prior in priors.items()} == {
        "dense": (("de", "sw"), 32),
        "late": (("de", "sw"), 16),
    }


ONE_LINE = r"^cannot load the encoder [^\n]*Hugging Face Hub \(which needs a network\)$"


def test_an_unknown_name_without_a_network_is_one_line_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment at its import
    began = time.perf_counter()
    with pytest.raises(EncoderError, match=ONE_LINE):
        Encoder.load("no-such/model")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("name", ["no/such/folder/at/all", "./nowhere", "x" * 5000, "a\0b"])
def test_a_name_that_cannot_be_one_is_one_line(name):
    with pytest.raises(EncoderError, match=ONE_LINE) as caught:
        Encoder.load(name)
    assert len(str(caught.value)) < 700


def test_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(EncoderError, match=ONE_LINE):
        Encoder.load(str(tmp_path))


@pytest.mark.parametrize(
    "file", ["model.safetensors", "tokenizer.json", "modules.json", "config.json", "config_sentence_transformers.json"]
)
def test_a_damaged_folder_is_one_line(tiny_folder, tmp_path, file):
    folder = shutil.copytree(tiny_folder, tmp_path / "damaged")
    (folder / file).write_bytes((folder / file).read_bytes()[:40])
    with pytest.raises(EncoderError, match=ONE_LINE):
        Encoder.load(str(folder))


def test_an_unknown_backend_is_refused():
    with pytest.raises(
        EncoderError, match="unknown backend 'tpu': choose from int16, torch, bf16, fp16, openvino, openvino-int8, onnx"
    ):
        Encoder.load(backend="tpu")
