"""BERT in whole numbers, against PyTorch's BERT in floats."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import binding
from sentence_transformers.base.modules import Transformer
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, XLMRobertaConfig, XLMRobertaModel

from data.errors import EncoderError
from index.compiling import compiled
from retriever import attention, bert, kernels, lanes
from retriever.bert import FEW, MixedBert, WholeNumberBert, suits
from retriever.encoder import Encoder, _one_thread
from tests.tiny import write_sentence_model

SEEDS = st.integers(0, 2**32 - 1)


def made(kind=BertModel, config=BertConfig, *, spread=0.2, heads=2, size=16, inner=64, **more):
    torch.manual_seed(0)
    sizes = {"vocab_size": 90, "hidden_size": heads * size, "num_hidden_layers": 3, "num_attention_heads": heads}
    sizes |= {
        "intermediate_size": inner,
        "max_position_embeddings": 300,
        "initializer_range": spread,
        "pad_token_id": 1,
    }
    return kind(config(**sizes, **more), add_pooling_layer=False).eval()


def asked(lengths, seed=0):
    rng = np.random.default_rng(seed)
    ids = torch.ones((len(lengths), max(lengths)), dtype=torch.long)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = torch.from_numpy(rng.integers(2, 90, length))
    return ids, (ids != 1).long()


def hidden(model, ids, mask):
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()[mask.bool().numpy()]


def cosines(a, b):
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.lists(st.integers(1, 150), min_size=1, max_size=9), st.sampled_from([(2, 16), (1, 64), (3, 32)]))
def test_hidden_states_are_those_of_pytorch(seed, lengths, heads):
    model = made(heads=heads[0], size=heads[1])
    ids, mask = asked(lengths, seed)
    wanted = hidden(model, ids, mask)
    found = hidden(WholeNumberBert(model), ids, mask)
    assert cosines(found, wanted).min() > 0.9999
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_a_roberta_counts_its_positions_in_its_own_way():
    model = made(XLMRobertaModel, XLMRobertaConfig)
    ids, mask = asked([9, 30, 1])
    assert cosines(hidden(WholeNumberBert(model), ids, mask), hidden(model, ids, mask)).min() > 0.9999


@pytest.mark.parametrize("factor", [1e-3, 30.0])
def test_tiny_and_huge_weights_lose_nothing(factor):
    """Scales follow the norms: sums of products stay within 32 bits, and use them."""
    model = made(inner=2048)
    with torch.no_grad():
        for layer in model.encoder.layer:
            for part in (layer.intermediate.dense, layer.attention.self.value):
                part.weight *= factor
            layer.attention.output.LayerNorm.weight[3] = 40.0  # real models have dimensions like this
    ids, mask = asked([120, 60])
    assert cosines(hidden(WholeNumberBert(model), ids, mask), hidden(model, ids, mask)).min() > 0.9999


def test_a_text_gets_the_same_bytes_whatever_stands_beside_it():
    model = WholeNumberBert(made())
    ids, mask = asked([40, 17, 90, 3, 55, 128, 1])
    together = hidden(model, ids, mask)
    apart = np.concatenate([hidden(model, ids[i : i + 1], mask[i : i + 1]) for i in range(len(ids))])
    assert together.tobytes() == apart.tobytes()


def test_a_question_alone_is_computed_in_whole_numbers_and_a_batch_as_the_model_is():
    model = made()
    mixed, whole = MixedBert(model), WholeNumberBert(model)
    for lengths, same in [([FEW], whole), ([FEW // 2, 3], whole), ([FEW + 1], model), ([FEW // 2 + 1] * 2, model)]:
        batch = asked(lengths)
        assert hidden(mixed, *batch).tobytes() == hidden(same, *batch).tobytes()


def test_whole_numbers_among_modules_in_bfloat16():
    model = made()
    ids, mask = asked([20, 9])
    wanted = hidden(model, ids, mask)
    mixed = MixedBert(model).to(torch.bfloat16)
    with torch.inference_mode():
        found = mixed(input_ids=ids, attention_mask=mask).last_hidden_state
    assert found.dtype == torch.bfloat16
    assert cosines(found.float().numpy()[mask.bool().numpy()], wanted).min() > 0.999


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_that(bad):
    """Vectors of a broken model are refused where they are stored, so they must not look whole."""
    layer = "encoder.layer.1."
    own = [f"{layer}attention.self.{name}.{kind}" for name in ("query", "key", "value") for kind in ("weight", "bias")]
    others = [f"{layer}{name}.weight" for name in ("intermediate.dense", "output.dense", "output.LayerNorm")]
    for part in ("embeddings.word_embeddings.weight", *own, *others):
        model = made()
        with torch.no_grad():
            model.get_parameter(part)[:] = bad
        assert not np.isfinite(hidden(WholeNumberBert(model), *asked([5, 9]))).any()


def test_no_tokens_and_no_texts():
    model = WholeNumberBert(made())
    ids = torch.ones((2, 3), dtype=torch.long)
    assert not model(input_ids=ids, attention_mask=torch.zeros_like(ids)).last_hidden_state.any()
    assert model(input_ids=ids[:0], attention_mask=ids[:0]).last_hidden_state.shape == (0, 3, 32)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 70), st.floats(0.01, 90))
def test_functions_are_those_of_pytorch(seed, count, scale):
    values = (np.random.default_rng(seed).standard_normal(count) * scale).astype(np.float32)
    found = values.copy()
    kernels.gelu(found, np.empty(count, np.int32), np.empty(count, np.float32))
    np.testing.assert_allclose(found, torch.nn.functional.gelu(torch.from_numpy(values)).numpy(), atol=1e-6, rtol=1e-5)
    found = np.minimum(values, 80)
    wanted = np.exp(found.astype(np.float64))
    attention.exp(found, np.empty(count, np.int32))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-37)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 40), st.integers(1, 8), st.integers(1, 4))
def test_products_are_sums_in_their_scales(seed, pairs, rows, panels):
    rng = np.random.default_rng(seed)
    left = rng.integers(-32000, 32000, (4 * rows, 4 * pairs)).astype(np.int16)
    right = rng.integers(-400, 400, (panels, 2 * pairs, 32)).astype(np.int16)
    weights = right.reshape(panels, 2 * pairs, 16, 2).transpose(0, 2, 1, 3).reshape(16 * panels, 4 * pairs)
    scales, units, bias = (rng.random(n).astype(np.float32) for n in (4 * rows, 16 * panels, 16 * panels))
    out = np.full((4 * rows, 16 * panels), np.nan, np.float32)
    attention.products(left, scales, right, units, bias, out)
    wanted = (left.astype(np.int64) @ weights.T) * scales[:, None].astype(np.float64) * units + bias
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 12), st.integers(1, 8), st.integers(1, 4), st.booleans())
def test_crossed_products_are_the_same_to_the_last_digit(seed, inputs, rows, panels, greatest):
    rng = np.random.default_rng(seed)
    x = rng.integers(-lanes.GREATEST, lanes.GREATEST + 1, (4 * rows, 16 * inputs))
    w = rng.integers(-lanes.WEIGHT, lanes.WEIGHT + 1, (16 * panels, 16 * inputs))
    if greatest:  # sums turn over on the way
        x, w = np.where(x > 0, lanes.GREATEST, -lanes.GREATEST), np.where(w > 0, lanes.WEIGHT, -lanes.WEIGHT)
    longest = lanes.MOST / np.linalg.norm(w, axis=1).max()
    x = (x * np.minimum(1, longest / np.linalg.norm(x, axis=1))[:, None]).astype(np.int16)
    weights = w.reshape(panels, 16, -1, 2).transpose(0, 2, 1, 3).reshape(1, panels, -1, 32).astype(np.int16)
    excess = (w.reshape(len(w), -1, 2, 2).prod(axis=2)).sum(axis=(1, 2)).astype(np.int32)
    ones, none = np.ones((1, len(w)), np.float32), np.zeros((1, len(w)), np.float32)
    matrices = kernels.Matrices(weights, ones, none, excess[None], np.ones(1, np.float32))
    layers = kernels.Layers(matrices, matrices, matrices, matrices, np.ones((1, 4, 8), np.float32))
    piece = kernels.piece(np.zeros((len(x), 8), np.float32), np.array([len(x)]), layers)
    piece.scales[:], piece.excess[:] = 1, [_excess(x, t) for t in range(len(x))]
    out = np.full((len(x), len(w)), np.nan, np.float32)
    for part in range(-(-panels // 2)):
        kernels._transform(piece, x, matrices, 0, part, 2, out)
    np.testing.assert_array_equal(out, (x.astype(np.int64) @ w.T).astype(np.float32))


@compiled
def _excess(rows, t):
    return lanes.sum_excess(rows, t)


def test_rows_are_rounded_as_finely_as_they_may_be():
    for values in ([0.0, 0.0], [-0.0, -1e-30], [1.5, -2.5], [-math.pi] * 9 + [2.0], [1e15, -1e18], [3e-9, 1e-12]):
        row = np.array([values], np.float32)
        whole, scales, excess = np.zeros(row.shape, np.int16), np.zeros(1, np.float32), np.zeros(1, np.int32)
        kernels._round(row, np.float32(1e9), whole, scales, excess)
        assert abs(whole).max() <= lanes.GREATEST
        np.testing.assert_allclose(whole * scales, row, rtol=0, atol=max(abs(row).max() / 57000, 1e-24))
        kernels._round(row, np.float32(1000), whole, scales, excess)
        assert np.linalg.norm(whole.astype(float)) <= 1000 + len(values)
        np.testing.assert_allclose(whole * scales, row, rtol=0, atol=max(np.linalg.norm(row) / 1900, 1e-24))


class _Adapted(torch.nn.Linear):
    """A layer that computes more than its weights say, as those of PEFT do."""


def test_models_that_it_does_not_suit_are_left_to_pytorch(tmp_path, backbone):
    transformer = Transformer(str(backbone))
    assert suits(transformer)
    transformer.query_expansion = {"strategy": "fixed", "attend": False, "length": 16, "token": "<mask>"}
    assert not suits(transformer)
    transformer.query_expansion = {"strategy": "fixed", "attend": True, "length": 16, "token": "<mask>"}
    assert suits(transformer)
    adapted = made()
    adapted.encoder.layer[1].output.dense = _Adapted(64, 32)
    for model in (
        adapted,
        made(hidden_act="relu"),
        made(output_hidden_states=True),
        made(heads=4, size=8),
        made().half(),
        DistilBertModel(DistilBertConfig(vocab_size=9, dim=16, n_layers=1, n_heads=1, hidden_dim=16)),
    ):
        transformer.model = model
        assert not suits(transformer)
    assert not suits(torch.nn.Linear(2, 2))


def test_the_backend_is_chosen_and_kept_in_the_fingerprint(tiny_folder, tmp_path, backbone):
    matrices = binding.get_host_cpu_features().get("amx-bf16")
    assert Encoder.load(str(tiny_folder)).fingerprint["arithmetic"] == ("bfloat16" if matrices else "int16")
    best, floats = (Encoder.load(str(tiny_folder), backend=name) for name in ("int16", "torch"))
    assert best.fingerprint["arithmetic"] == "int16"
    assert floats.fingerprint["arithmetic"] == "float32"
    same = {key for key in best.fingerprint if best.fingerprint[key] == floats.fingerprint[key]}
    assert {"weights", "dims", "prompts"} <= same
    np.testing.assert_allclose(best.fingerprint["probe"], floats.fingerprint["probe"], atol=1e-3)
    other = write_sentence_model(tmp_path / "relu", _with_relu(backbone, tmp_path))
    assert Encoder.load(str(other)).fingerprint["arithmetic"] == ("bfloat16" if matrices else "float32")
    with pytest.raises(EncoderError, match="int16 computes BERT"):
        Encoder.load(str(other), backend="int16")


def _with_relu(backbone, folder):
    model = BertModel.from_pretrained(backbone, hidden_act="relu", add_pooling_layer=False)
    transformer = Transformer(str(backbone))
    model.save_pretrained(folder / "backbone")
    transformer.tokenizer.save_pretrained(folder / "backbone")
    return folder / "backbone"


def test_pieces_are_cut_between_texts(monkeypatch):
    seen = set()
    forward = kernels.forward
    monkeypatch.setattr(
        kernels, "forward", lambda piece, *rest: (seen.add(tuple(piece.lengths.tolist())), forward(piece, *rest))
    )
    monkeypatch.setattr(bert, "PIECE", 50)
    hidden(WholeNumberBert(made()), *asked([20, 30, 10, 45, 90, 5]))
    assert sorted(seen) == [(5,), (10,), (20, 30), (45,), (90,)]


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.lists(st.integers(0, 40), min_size=1, max_size=4), st.lists(st.floats(0, 1e-3), max_size=5))
def test_threads_that_share_a_piece_whenever_they_come_make_the_same_bytes(seed, lengths, delays):
    model = WholeNumberBert(made(heads=3))
    tokens = np.random.default_rng(seed).standard_normal((sum(lengths), 48)).astype(np.float32)

    def together(delays):
        piece = kernels.piece(tokens, np.array(lengths), model._layers)

        def work(delay):
            time.sleep(delay)
            kernels.forward(piece, model._layers, 3, 1e-12)
            return piece.x[: len(tokens)].tobytes()

        with ThreadPoolExecutor(len(delays)) as pool:
            return set(pool.map(work, delays))

    assert together([0.0, *delays]) == together([0.0])


def test_pytorchs_threads_are_given_back_by_the_last_who_limits_them():
    before = torch.get_num_threads()
    one, other = _one_thread(), _one_thread()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert torch.get_num_threads() == 1
    other.__exit__(None, None, None)
    assert torch.get_num_threads() == before


def test_a_question_leaves_pytorchs_threads_as_they_were(tiny_folder):
    before = torch.get_num_threads()
    Encoder.load(str(tiny_folder), backend="int16").encode_queries(["which threads?"])
    assert torch.get_num_threads() == before
