"""The model that is trained: opened, told which of its weights move, and those kept in a file of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.errors import UsageError
from retriever.adapters import find_adapters
from retriever.bundled import SHIPPED, bundled_model
from retriever.training.projection import begin_dense, set_projection
from retriever.training.recipe import Recipe

LEARNED = "learned.safetensors"


def open_model(recipe: Recipe) -> Any:  # noqa: ANN401
    """Load the base encoder, with adapters where the recipe asks for some, and embeddings that do not move.

    A new projection of token vectors is of zeros, for :func:`set_projection`: fitting it takes minutes, and what the
    base cannot do is refused before.
    """
    torch.manual_seed(recipe.seed)
    model = load_base(recipe)
    if recipe.projection:
        set_projection(model, np.zeros((recipe.projection.dims, model[0].get_embedding_dimension()), np.float32))
        if recipe.projection.dense:
            begin_dense(model)
    _choose(model, recipe)
    return model


def load_base(recipe: Recipe) -> Any:  # noqa: ANN401
    """Load the base encoder as it is, without dropout."""
    from sentence_transformers import SentenceTransformer

    source = str(bundled_model(recipe.base)) if recipe.base in SHIPPED else recipe.base
    on_card = torch.cuda.is_available()
    # The fused attention of PyTorch takes 2.7 s of a step's 5.5 in its backward pass on a processor; without it 3.2.
    settings = {} if on_card else {"attn_implementation": "eager"}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    device = "cuda" if on_card else "cpu"
    return SentenceTransformer(source, device=device, model_kwargs=settings, config_kwargs=still)


def _choose(model: Any, recipe: Recipe) -> None:  # noqa: ANN401
    """Let those parameters move that the recipe trains, and add LoRA's.

    Raises:
        UsageError: a language alone without an adapter for it, or one that the base has no adapter of; a projection
            alone where there is none.
    """
    backbone, rank = model[0].model, recipe.optimizing.lora_rank
    if recipe.optimizing.projection_only:
        backbone.requires_grad_(requires_grad=False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UsageError("the base has no projection after the transformer: train with projection_only = false")
        return
    modular = backbone.config.model_type == "xmod"
    if recipe.language and recipe.projection and not modular:
        raise UsageError("an adapter of a language stands beside the base as it is: leave [projection] or language out")
    if recipe.language and not rank and not modular:
        raise UsageError("language needs learned adapters: give a lora_rank, or leave it out")
    if modular:
        adapters = find_adapters(model[0], Path())
        if recipe.language not in ("", *adapters.names):
            known = ", ".join(sorted(adapters.names))
            raise UsageError(f"the base has no adapter for {recipe.language!r}: it has {known}")
        adapters.use(adapters.names.get(recipe.language, adapters.default))
    still = (r"embeddings\.", r"\.adapter_modules\.", r"\.adapter_layer_norm\.")
    for name, parameter in backbone.named_parameters():
        if rank or any(re.search(part, name) for part in still):
            parameter.requires_grad = False
    if rank:
        from peft import inject_adapter_in_model

        inject_adapter_in_model(lora(rank), backbone)
    if recipe.language and not modular:
        for module in list(model)[1:]:
            module.requires_grad_(requires_grad=False)


def lora(rank: int) -> Any:  # noqa: ANN401
    """Return the form of the adapters, for PEFT."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=rank, target_modules=["query", "key", "value", "dense"])


def write_learned(model: Any, folder: Path) -> None:  # noqa: ANN401
    """Write the parameters that a training moves."""
    write_tensors({n: p.detach() for n, p in model.named_parameters() if p.requires_grad}, folder / LEARNED)


def read_learned(model: Any, folder: Path) -> None:  # noqa: ANN401
    """Read what :func:`write_learned` wrote."""
    read_tensors(dict(model.named_parameters()), folder / LEARNED)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name; of none no file."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    if tensors:
        save_file({name: values.contiguous() for name, values in tensors.items()}, path)


def read_tensors(own: Mapping[str, Tensor], path: Path) -> None:
    """Read what :func:`write_tensors` wrote into tensors that are there."""
    from safetensors.torch import load_file

    with torch.no_grad():
        for name, values in (load_file(path) if own else {}).items():
            own[name].copy_(values)


def take_adapters_out(backbone: Any, *, merge: bool) -> None:  # noqa: ANN401
    """Take LoRA's adapters out of a model, adding their products to the weights that they stand beside, or not."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(backbone.named_modules()):
        if isinstance(module, BaseTunerLayer):
            if merge:
                module.merge()
            parent, _, own = name.rpartition(".")
            setattr(backbone.get_submodule(parent), own, module.get_base_layer())
