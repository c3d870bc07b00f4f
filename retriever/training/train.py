"""Training on Sentence Transformers' trainer: from a recipe to a checkpoint that any library loads.

    OUTPUT/checkpoint-100/...    where a training that was stopped goes on
    OUTPUT/log.csv               loss, learning rate and evaluations by step
    OUTPUT/adapter/              what was learned alone: LoRA weights, and the modules after the transformer
    OUTPUT/model/                the whole model, an ordinary checkpoint

The batches are all drawn before the first step: they depend on nothing but data and seed, and a training that goes on
after a stop takes up the batch that would have come next.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from data.errors import UsageError
from retriever.bundled import NAME as BUNDLED
from retriever.bundled import be_quiet, bundled_model
from retriever.training.batches import Mixer, Row
from retriever.training.examples import Skipped, check_apart, read_sources
from retriever.training.losses import JointLoss
from retriever.training.moco import MomentumLoss
from retriever.training.recipe import Recipe

LEARNED = "learned.safetensors"
MEMORY = "memory.safetensors"
PROMPTS = {"query": ("query",), "passage": ("document", "passage", "corpus")}


def train(recipe: Recipe, output: Path) -> dict[str, Any]:
    """Train, or go on with what was stopped.

    Args:
        recipe: how.
        output: a folder; what is in it of an earlier training of the same recipe is gone on with.

    Returns:
        ``{"steps", "seconds", "loss", "held_out_loss", "skipped"}``.
    """
    be_quiet()
    skipped = Skipped()
    sources = [
        source
        for data in recipe.data
        for source in read_sources(Path(data.path), skipped, leave_out=data.leave_out, kind=data.kind)
    ]
    check_apart(sources, map(Path, recipe.apart))
    mixer = Mixer(sources, recipe.mixing, recipe.seed, cropping=recipe.cropping)
    held = [mixer.batch() for _ in range(recipe.held_out)]
    batches = [mixer.batch() for _ in range(recipe.optimizing.steps)]
    del sources, mixer
    model = open_model(recipe)
    kind = JointLoss if recipe.moco is None else partial(MomentumLoss, moco=recipe.moco)
    loss = kind(
        model, recipe.contrast, prompted=[_prompt_tokens(model, role) for role in PROMPTS],
        mini_batch=recipe.optimizing.mini_batch or None,
    )  # fmt: skip
    trainer = _trainer_class()(
        model=model,
        args=_arguments(recipe, output, bool(held)),
        train_dataset=_dataset(batches, model, recipe),
        eval_dataset=_dataset(held, model, recipe) if held else None,
        loss=loss,
        data_collator=_collator(model),
    )
    last = any(output.glob("checkpoint-*"))
    result = trainer.train(resume_from_checkpoint=last or None)
    evaluated = trainer.evaluate() if held else {}
    _write_log(output / "log.csv", trainer.state.log_history)
    save(model, output, recipe)
    return {
        "steps": int(trainer.state.global_step),
        "seconds": round(float(result.metrics["train_runtime"]), 1),
        "loss": round(float(result.training_loss), 4),
        **({"held_out_loss": round(float(evaluated["eval_loss"]), 4)} if held else {}),
        "skipped": dict(skipped.counts),
    }


def open_model(recipe: Recipe) -> Any:  # noqa: ANN401
    """Load the base encoder, with adapters where the recipe asks for some, and embeddings that do not move."""
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(recipe.seed)
    source = str(bundled_model()) if recipe.base == BUNDLED else recipe.base
    on_card = torch.cuda.is_available()
    # The fused attention of PyTorch takes 2.7 s of a step's 5.5 in its backward pass on a processor; without it 3.2.
    settings = {} if on_card else {"attn_implementation": "eager"}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = SentenceTransformer(source, device="cuda" if on_card else "cpu", model_kwargs=settings, config_kwargs=still)
    model.max_seq_length = recipe.optimizing.tokens
    backbone: Any = model[0].model
    for parameter in backbone.embeddings.parameters():
        parameter.requires_grad = False
    rank = recipe.optimizing.lora_rank
    if rank:
        from peft import LoraConfig, inject_adapter_in_model

        for parameter in backbone.parameters():
            parameter.requires_grad = False
        linear = ["query", "key", "value", "dense"]
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=linear), backbone)
    elif recipe.contrast.distil:
        raise UsageError("distil = ... asks the model without its adapters: give a lora_rank, or leave distil out")
    return model


def _prompt(model: Any, role: str) -> str:  # noqa: ANN401
    return next((model.prompts[name] for name in PROMPTS[role] if model.prompts.get(name)), "")


def _prompt_tokens(model: Any, role: str) -> int:  # noqa: ANN401
    ids = model.tokenizer(_prompt(model, role).rstrip(), add_special_tokens=False)["input_ids"]
    special = set(model.tokenizer.all_special_ids)
    return sum(token not in special for token in ids)


def _dataset(batches: Sequence[Sequence[Row]], model: Any, recipe: Recipe) -> Any:  # noqa: ANN401
    """Return all rows, in columns, with the number of their batch."""
    from datasets import Dataset

    rows = [row for batch in batches for row in batch]
    passage, query = _prompt(model, "passage"), _prompt(model, "query")
    columns: dict[str, list[Any]] = {
        "query": [query + row.query for row in rows],
        "positive": [passage + row.positive for row in rows],
    }
    for place in range(recipe.mixing.negatives):
        texts = [row.negatives[place] if place < len(row.negatives) else "" for row in rows]
        columns[f"negative_{place + 1}"] = [passage + text for text in texts]
    if recipe.contrast.distil:
        columns["asked"] = [(passage if row.asked == row.found else query) + row.asked for row in rows]
        columns["found"] = [passage + row.found for row in rows]
    columns["batch"] = [number for number, batch in enumerate(batches) for _ in batch]
    return Dataset.from_dict(columns)


class InOrder(BatchSampler):
    """Batches as they were put together."""

    def __init__(self, dataset: Any, **_: Any) -> None:  # noqa: ANN401
        """Find where batches begin in the column ``batch``."""
        numbers = dataset["batch"]
        self._batches: list[list[int]] = []
        for place, number in enumerate(numbers):
            if not place or number != numbers[place - 1]:
                self._batches.append([])
            self._batches[-1].append(place)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of every batch."""
        return iter(self._batches)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)


def _trainer_class() -> Any:  # noqa: ANN401
    from sentence_transformers import SentenceTransformerTrainer

    class Trainer(SentenceTransformerTrainer):
        """Keeps in checkpoints what is learned alone: 11 MB of 480."""

        loss: Any

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ANN401
            folder = Path(output_dir or str(self.args.output_dir))
            write_learned(self.model, folder)
            write_tensors(self.loss.memory(), folder / MEMORY)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ANN401
            read_learned(self.model, Path(resume_from_checkpoint))
            read_tensors(self.loss.memory(), Path(resume_from_checkpoint) / MEMORY)

    return Trainer


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


def _collator(model: Any) -> Any:  # noqa: ANN401
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

    inner = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)

    class Collator(SentenceTransformerDataCollator):
        def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
            found: dict[str, Any] = inner([{k: v for k, v in row.items() if k != "batch"} for row in features])
            return found

    return Collator(preprocess_fn=model.preprocess)


def _arguments(recipe: Recipe, output: Path, evaluates: bool) -> Any:  # noqa: ANN401
    from sentence_transformers import SentenceTransformerTrainingArguments

    how = recipe.optimizing
    return SentenceTransformerTrainingArguments(
        output_dir=str(output),
        num_train_epochs=1,
        per_device_train_batch_size=recipe.mixing.rows,
        per_device_eval_batch_size=recipe.mixing.rows,
        learning_rate=how.learning_rate,
        learning_rate_mapping={r"^(model\.)?[1-9]\d*\.": how.projection_rate},
        lr_scheduler_type="cosine",
        warmup_steps=how.warmup,
        max_grad_norm=1.0,
        bf16=how.bf16,
        seed=recipe.seed,
        use_cpu=not torch.cuda.is_available(),
        batch_sampler=lambda dataset, **_: InOrder(dataset),  # type: ignore[arg-type]
        eval_strategy="steps" if evaluates else "no",
        eval_steps=how.save_every,
        save_steps=how.save_every,
        save_total_limit=2,
        logging_steps=10,
        report_to=[],
        dataloader_num_workers=0,
        remove_unused_columns=False,
    )


def _write_log(path: Path, history: Sequence[dict[str, Any]]) -> None:
    names = ["step", "loss", "grad_norm", "learning_rate", "eval_loss"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(entry for entry in history if entry.keys() & {"loss", "eval_loss"})


def save(model: Any, output: Path, recipe: Recipe) -> None:  # noqa: ANN401
    """Write what was learned alone, and the whole model."""
    write_learned(model, output / "adapter")
    if recipe.optimizing.lora_rank:
        merge_adapters(model[0].model)
    model.max_seq_length = 512
    model.save_pretrained(str(output / "model"))


def merge_adapters(backbone: Any) -> None:  # noqa: ANN401
    """Add LoRA's products to the weights that they stand beside, and take the adapters out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(backbone.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(backbone.get_submodule(parent), own, module.get_base_layer())
