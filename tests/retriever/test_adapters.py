"""Adapters by language, against what Transformers and PEFT themselves compute for each text alone."""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import IA3Config, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, XmodModel

from data.errors import CollectionError, EncoderError
from data.records import Document, Query
from index.manifest import check_fingerprint
from retriever.encoder import Encoder
from retriever.engine import BuildSettings, Engine, build_collection
from tests import tiny as writers

# PEFT asks Transformers for something by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

NAMES = ["en_XX", "de_DE", "zh_CN", "zh_TW", "sw_KE", "sr_RS", "no_XX"]
TEXTS = {
    "The coral reef turns white.": "en",
    "Das Riff wird weiß; das Meer ist warm.": "de",
    "海水变暖时珊瑚会变白。": "zh",
    "Bahari ikipata joto matumbawe huwa meupe.": "sw",
    "Коралловый риф белеет": "sr",
    "reef": "no",
}


@pytest.fixture(scope="module")
def modular(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xmod")
    backbone = writers.write_xmod_backbone(folder / "backbone", NAMES)
    return writers.write_sentence_model(folder / "sentence", backbone)


@pytest.fixture(scope="module")
def xmod(modular):
    return Encoder.load(str(modular), backend="torch")


@pytest.fixture
def plain(tmp_path, tiny_folder):
    """A copy that adapters can be put beside."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, tiny_folder, backbone):
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("lora") / "model")
    writers.write_lora(folder / "adapters" / "de", backbone, seed=1)
    writers.write_lora(folder / "adapters" / "sw", backbone, seed=2, targets=["query"])
    return folder


@pytest.fixture(scope="module", params=["xmod", "torch", "int16"])
def any_modular(request, modular, adapted):
    backend = "torch" if request.param == "xmod" else request.param
    return Encoder.load(str(modular if request.param == "xmod" else adapted), backend=backend)


def means(model, folder, texts, prompt="passage: ", **asked):
    """Return the mean of a model's last hidden states for each text alone, at unit length."""
    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for text in texts:
        with torch.inference_mode():
            hidden = model.eval()(**tokenizer(prompt + text, return_tensors="pt"), **asked).last_hidden_state
        found.append(torch.nn.functional.normalize(hidden[0].mean(dim=0), dim=0).numpy())
    return np.stack(found)


def each(vectors):
    return [np.concatenate([d, vectors.late[i].ravel()]) for i, d in enumerate(vectors.dense)]


def encode(encoder, texts, languages):
    return encoder.encode(encoder.tokenize(texts, languages))


def assert_close(ours, theirs, atol=1e-5):
    np.testing.assert_allclose(ours, theirs, atol=atol)


def test_each_text_is_what_transformers_makes_of_it_with_the_adapter_of_its_language(xmod, modular):
    model = XmodModel.from_pretrained(modular, add_pooling_layer=False)
    documents, queries = encode(xmod, list(TEXTS), list(TEXTS.values())), xmod.encode_queries(TEXTS, TEXTS.values())
    for i, (text, language) in enumerate(TEXTS.items()):
        number = next(n for n, name in enumerate(NAMES) if name.startswith(language))
        lang_ids = torch.tensor([number])
        assert_close(documents.dense[i : i + 1], means(model, modular, [text], lang_ids=lang_ids))
        assert_close(queries.dense[i : i + 1], means(model, modular, [text], "query: ", lang_ids=lang_ids))
    english = encode(xmod, list(TEXTS), ["en"] * len(TEXTS))
    assert (np.sum(english.dense * documents.dense, axis=1)[1:] < 0.99).all()


@pytest.mark.parametrize(
    ("names", "default", "expected"),
    [
        (NAMES, None, "en_XX"),
        (NAMES, "sw_KE", "sw_KE"),
        (["de_DE", "en_XX"], None, "en_XX"),
        (["de_DE", "sw_KE"], None, "de_DE"),
    ],
)
def test_languages_without_an_adapter_have_the_default(tmp_path, names, default, expected):
    backbone = writers.write_xmod_backbone(tmp_path / "backbone", names, default)
    folder = writers.write_sentence_model(tmp_path / "model", backbone)
    model = XmodModel.from_pretrained(backbone, add_pooling_layer=False)
    lang_ids = torch.tensor([names.index(expected)])
    ours = encode(Encoder.load(str(folder), backend="torch"), ["Le récif", "Le récif", "x"], ["fr", "", "yo"]).dense
    assert_close(ours, means(model, folder, ["Le récif", "Le récif", "x"], lang_ids=lang_ids))


def test_languages_are_identified_where_none_are_given(xmod):
    texts = ["Das Riff wird weiß, wenn das Meer warm ist.", "The coral reef turns white when the sea is warm."]
    assert_close(xmod.encode_documents(texts).dense, encode(xmod, texts, ["de", "en"]).dense)
    assert_close(xmod.encode_queries(texts).dense, xmod.encode_queries(texts, ["de", "en"]).dense)


@given(
    asked=st.lists(st.tuples(st.sampled_from([*TEXTS, "", "riff " * 90]), st.sampled_from(["de", "sw", "en", ""]))),
    queries=st.booleans(),
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mixed_batch_gives_what_each_text_gives_alone(any_modular, asked, queries):
    texts, languages = [text for text, _ in asked], [language for _, language in asked]
    make = any_modular.encode_queries if queries else lambda *given: encode(any_modular, *given)
    for ours, text, language in zip(each(make(texts, languages)), texts, languages, strict=True):
        assert_close(ours, each(encode_alone(any_modular, text, language, queries))[0])


def encode_alone(encoder, text, language, query):
    if query:
        encoder.forget([text])
        return encoder.encode_queries([text], [language])
    return encode(encoder, [text], [language])


def test_equal_texts_are_encoded_once_for_an_adapter(any_modular, tiny):
    texts, languages = ["reef"] * 4, ["de", "sw", "de", "yo"]
    assert any_modular.tokenize(texts, languages).differing == 3
    assert tiny.tokenize(texts, languages).differing == 1
    vectors = encode(any_modular, texts, languages).dense
    assert_close(vectors[0], vectors[2], atol=0)
    assert vectors[0] @ vectors[1] < 0.999


def test_queries_are_kept_for_each_adapter(any_modular):
    found = any_modular.encode_queries(["white reef"] * 3, ["de", "sw", "de"])
    again = any_modular.encode_queries(["white reef"] * 3, ["sw", "de", "sw"])
    assert_close(again.dense[:2], found.dense[1::-1], atol=0)
    assert len([one for one in any_modular._cache if one.text == "white reef"]) == 2
    any_modular.forget(["white reef"])
    assert not [one for one in any_modular._cache if one.text == "white reef"]


def test_threads_get_what_one_gets(any_modular):
    pairs = [(f"{text} {n}", language) for n in range(3) for text, language in TEXTS.items()]
    alone = {pair: encode(any_modular, *([x] for x in pair)).dense[0] for pair in pairs}

    def work(pair):
        for _ in range(2):
            assert_close(encode(any_modular, *([x] for x in pair)).dense[0], alone[pair])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, pairs))


@pytest.mark.parametrize(("backend", "least"), [("torch", 0.999999), ("bf16", 0.999), ("int16", 0.9999)])
def test_lora_adapters_give_what_peft_gives(adapted, backbone, tiny, backend, least):
    encoder, texts = Encoder.load(str(adapted), backend=backend), list(TEXTS)
    for language in ("de", "sw", "de"):
        model = PeftModel.from_pretrained(AutoModel.from_pretrained(backbone), adapted / "adapters" / language)
        theirs = means(model, backbone, texts)
        assert (np.sum(encode(encoder, texts, [language] * len(texts)).dense * theirs, axis=1) > least).all()
        assert (np.sum(tiny.encode_documents(texts).dense * theirs, axis=1) < 0.995).all()
    without = encode(encoder, texts, ["fr"] * len(texts)).dense
    assert (np.sum(without * tiny.encode_documents(texts).dense, axis=1) > least).all()


def test_an_adapter_of_the_embeddings_leaves_those_of_others_alone(plain, backbone, tiny):
    writers.write_lora(plain / "adapters" / "de", backbone, targets=["word_embeddings", "value"])
    writers.write_lora(plain / "adapters" / "sw", backbone, seed=2, targets=["query"])
    found = [Encoder.load(str(plain), backend=backend) for backend in ("torch", "int16")]
    for language in ("de", "sw", "fr", "de"):
        one, other = (encode(encoder, list(TEXTS), [language] * len(TEXTS)).dense for encoder in found)
        assert (np.sum(one * other, axis=1) > 0.9999).all()
    assert (np.sum(one * tiny.encode_documents(list(TEXTS)).dense, axis=1) < 0.99).all()


def test_an_adapter_of_the_checkpoint_stays_on(plain, backbone):
    shared = writers.write_lora(plain, backbone, seed=3)
    german = writers.write_lora(plain / "adapters" / "de", backbone, seed=1)
    encoder, texts = Encoder.load(str(plain), backend="torch"), list(TEXTS)
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(backbone), shared)
    assert_close(encode(encoder, texts, ["fr"] * len(texts)).dense, means(theirs, backbone, texts))
    theirs.load_adapter(german, adapter_name="de")
    theirs.base_model.set_adapter(["default", "de"])
    assert_close(encode(encoder, texts, ["de"] * len(texts)).dense, means(theirs, backbone, texts))


def test_an_adapter_makes_another_encoder_and_an_empty_folder_none(tiny, plain, backbone, tmp_path):
    (plain / "adapters").mkdir()
    (plain / "adapters" / "README.md").write_text("Put adapters here.")
    before = Encoder.load(str(plain), backend="torch").fingerprint
    assert {**before, "model": ""} == {**tiny.fingerprint, "model": ""}
    writers.write_lora(plain / "adapters" / "sw", backbone)
    after = Encoder.load(str(plain), backend="torch").fingerprint
    assert {key for key in before if before[key] != after[key]} == {"weights"}
    with pytest.raises(CollectionError, match="was built with the encoder"):
        check_fingerprint(tmp_path, before, after)


@pytest.mark.parametrize("kind", ["modular", "adapted"])
def test_a_collection_is_ranked_by_language(request, tmp_path, kind):
    folder = request.getfixturevalue(kind)
    alike = shutil.copytree(folder, tmp_path / "alike")  # queries and documents have no prompts
    config = json.loads((alike / "config_sentence_transformers.json").read_text())
    (alike / "config_sentence_transformers.json").write_text(json.dumps({**config, "prompts": {}}))
    text = "The coral reef turns white when the sea is warm."
    documents = [Document(lang, text, lang=lang) for lang in ("de", "sw", "en")]
    build_collection(documents, tmp_path / "c", BuildSettings(encoder=str(alike)))
    engine = Engine.open(tmp_path / "c")
    for using in ("dense", "late"):
        asked = [Query(text, lang=lang) for lang in ("sw", "de", "en", "")]
        found = engine.retriever(using, neutral=False).search(asked, 3)
        assert [hits[0].id for hits in found] == ["sw", "de", "en", "en"]  # the text is identified as English


def colbert_xm(folder):
    """Write a checkpoint as the authors of ColBERT-XM did, and return its backbone and its projection."""
    writers.write_xmod_backbone(folder, NAMES, "en_XX")
    model = XmodModel.from_pretrained(folder, add_pooling_layer=False)
    torch.manual_seed(1)
    linear = torch.randn(16, 32)
    weights = {f"roberta.{name}": value.contiguous() for name, value in model.state_dict().items()}
    save_file({**weights, "linear.weight": linear}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    markers = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]"}
    (folder / "artifact.metadata").write_text(json.dumps({**markers, "query_maxlen": 24, "doc_maxlen": 48}))
    return model.eval(), linear


def test_colbert_xm_is_what_its_authors_compute(tmp_path):
    model, linear = colbert_xm(tmp_path)
    encoder, tokenizer = Encoder.load(str(tmp_path), backend="torch"), AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.convert_tokens_to_ids("[unused0]") in (None, tokenizer.unk_token_id)

    def theirs(text, lang_id, length):
        """Put the marker in behind the first token, as ColBERT does, and fill up with masks that nobody looks at."""
        own = tokenizer(text)["input_ids"]
        ids = [own[0], tokenizer.unk_token_id, *own[1:]]
        mask = [1] * len(ids) + [0] * (length - len(ids))
        ids += [tokenizer.mask_token_id] * (length - len(ids))
        with torch.inference_mode():
            given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.tensor([mask])}
            hidden = model(**given, lang_ids=torch.tensor([lang_id])).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden @ linear.T, dim=-1).numpy()

    asked = [("das Meer ist warm", "de", 1), ("海水变暖", "zh", 2), ("the sea", "fr", 0)]
    texts, languages = [text for text, _, _ in asked], [language for _, language, _ in asked]
    documents, queries = encode(encoder, texts, languages).late, encoder.encode_queries(texts, languages).late
    for i, (text, _, lang_id) in enumerate(asked):
        assert_close(documents[i], theirs(text, lang_id, 0))
        assert_close(queries[i], theirs(text, lang_id, 24))


def fails(folder, message, **options):
    with pytest.raises(EncoderError, match=message) as raised:
        Encoder.load(str(folder), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("klingon words", "klingon words is not called by a language: name it its code, as `sw`, or take it away"),
        ("swh", "swh is not called by a language: name it sw"),
        ("zh_CN", "zh_CN is not called by a language: name it zh"),
        ("sw", "sw has no adapter_config.json and no adapter_model.safetensors"),
    ],
)
def test_a_folder_that_is_no_adapter(plain, name, message):
    (plain / "adapters" / name).mkdir(parents=True)
    fails(plain, message)


def broken(folder, how, backbone):
    path, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    weights = load_file(path)
    match how:
        case "config":
            config.write_text("{")
        case "weights":
            path.write_bytes(b"\0" * 100)
        case "absent weights":
            path.unlink()
        case "names":
            save_file(
                {name.replace("base_model.model.", "base_model.model.0."): x for name, x in weights.items()}, path
            )
        case "shapes":
            save_file({name: x[:, :3].contiguous() for name, x in weights.items()}, path)
        case "part":
            save_file(dict(list(weights.items())[:-1]), path)
        case "layers":
            config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": ["q_proj"]}))
        case "kind":
            other = IA3Config(target_modules=["value"], feedforward_modules=[])
            get_peft_model(AutoModel.from_pretrained(backbone), other).save_pretrained(folder)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("config", "adapters/sw: "),
        ("weights", "adapters/sw: .*[Hh]eader"),
        ("absent weights", "adapters/sw has no adapter_model.safetensors"),
        ("names", "adapters/sw is no adapter of this model"),
        ("shapes", "adapters/sw: .*size mismatch"),
        ("part", "adapters/sw is no adapter of this model"),
        ("layers", "adapters/sw: .*q_proj"),
        ("kind", "adapters/sw: an adapter of the kind .*IA3, not LoRA"),
    ],
)
def test_a_broken_adapter_is_told_before_any_work(plain, backbone, how, message):
    broken(writers.write_lora(plain / "adapters" / "sw", backbone), how, backbone)
    fails(plain, message)


@pytest.mark.parametrize("backend", ["onnx", "openvino", "openvino-int8", "int16"])
def test_backends_that_cannot_exchange_adapters(modular, adapted, backend):
    message = "int16 computes BERT" if backend == "int16" else f"{backend} cannot exchange adapters by language"
    fails(modular, message, backend=backend)
    if backend != "int16":
        fails(adapted, message, backend=backend)


def test_xmod_with_folders_of_adapters(modular, tmp_path):
    folder = shutil.copytree(modular, tmp_path / "model")
    (folder / "adapters" / "sw").mkdir(parents=True)
    fails(folder, "X-MOD has adapters of its own")


def test_peft_is_asked_for_only_where_there_are_adapters(adapted, tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fails(adapted, r"adapters need PEFT: pip install 'polyseek\[train\]'")
    Encoder.load(str(tiny_folder), backend="torch")
