"""Training on Sentence Transformers' trainer: from a recipe to a checkpoint that any library loads.

    OUTPUT/checkpoint-100/...    where a training that was stopped goes on
    OUTPUT/log.csv               loss, learning rate and evaluations by step
    OUTPUT/training.json         recipe, digests of the data, versions, results
    OUTPUT/adapter/              what was learned alone: LoRA weights, and the modules after the transformer
    OUTPUT/model/                the whole model, an ordinary checkpoint
    OUTPUT/projection.npy        where the projection began, if a new one did

The batches are all drawn before the first step: they depend on nothing but data and seed, and a training that goes on
after a stop takes up the batch that would have come next.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import UsageError
from index.storage import write_array, write_json
from retriever.adapters import FOLDER
from retriever.bundled import be_quiet
from retriever.training.batches import Mixer, Row
from retriever.training.columns import PROMPTS, InOrder, collator, dataset, prompt_tokens
from retriever.training.dev import METRIC, Ranking
from retriever.training.examples import Skipped, Source, check_apart, read_sources, without_long
from retriever.training.joint import JointLoss
from retriever.training.moco import MomentumLoss
from retriever.training.model import (
    load_base,
    lora,
    open_model,
    read_learned,
    read_tensors,
    take_adapters_out,
    write_learned,
    write_tensors,
)
from retriever.training.projection import draw, fit, set_projection
from retriever.training.recipe import Projection, Recipe, made_of

LOG = "log.csv"
MADE_OF = "training.json"
MEMORY = "memory.safetensors"
BEGUN = "projection.npy"
# Of so many examples of a source one is held out, where any are.
HELD = 20
TOLD = {"eval_loss": "held_out_loss", f"eval_{METRIC}": "dev_map"}


Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int, str], None]]]


@contextmanager
def _no_progress(label: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    yield lambda count, note: None


def train(recipe: Recipe, output: Path, progress: Progress = _no_progress) -> dict[str, Any]:
    """Train, or go on with what was stopped.

    Args:
        recipe: how.
        output: a folder; what is in it of an earlier training of the same recipe is gone on with.
        progress: opens a bar, ``with progress(label, total) as advance``, and ``advance(1, note)`` after each step.

    Returns:
        ``{"model", "steps", "seconds", "loss", "held_out_loss", "dev_map", "skipped"}``.
    """
    if any(find_spec(name) is None for name in ("accelerate", "datasets", "peft")):
        raise UsageError("training needs more packages: pip install 'polyseek[train]'")
    be_quiet()
    skipped = Skipped()
    held, batches, sources = _batches(recipe, skipped)
    model = open_model(recipe)
    made = _begin(recipe, output)
    if recipe.projection is not None:
        set_projection(model, _begun(recipe, recipe.projection, sources, output, progress))
    kind = JointLoss if recipe.moco is None else partial(MomentumLoss, moco=recipe.moco)
    loss = kind(
        model, recipe.contrast, prompted=[prompt_tokens(model, role) for role in PROMPTS],
        mini_batch=recipe.optimizing.mini_batch or None,
    )  # fmt: skip
    trainer = _trainer_class()(
        model=model,
        args=_arguments(recipe, output),
        train_dataset=dataset(batches, model, recipe),
        eval_dataset=dataset(held, model, recipe) if held else None,
        loss=loss,
        evaluator=_ranking(recipe, loss),
        data_collator=collator(model, recipe.optimizing.tokens),
    )
    last = any(output.glob("checkpoint-*"))
    with progress("train", recipe.optimizing.steps) as advance:
        _callbacks(trainer, advance, recipe.optimizing.patience)
        result = trainer.train(resume_from_checkpoint=last or None)
    evaluated = trainer.evaluate() if held or recipe.dev else {}
    _write_log(output / LOG, trainer.state.log_history)
    save(model, output, recipe)
    told = {
        "model": str(output / "model"),
        "steps": int(trainer.state.global_step),
        "seconds": round(float(result.metrics["train_runtime"]), 1),
        "loss": round(float(result.training_loss), 4),
        **{told: round(float(evaluated[name]), 4) for name, told in TOLD.items() if name in evaluated},
        "skipped": dict(skipped.counts),
    }
    write_json(output / MADE_OF, {**made, "results": {k: v for k, v in told.items() if k != "model"}})
    return told


def _begin(recipe: Recipe, output: Path) -> dict[str, Any]:
    """Write what the training is made of.

    Raises:
        UsageError: the folder has a training of something else, or what tells that is damaged.
    """
    made, path = made_of(recipe), output / MADE_OF
    if path.exists():
        told = {}
        with suppress(ValueError):
            told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or any(told.get(part) != made[part] for part in ("recipe", "data")):
            raise UsageError(f"{output} has a training of another recipe or of other data: name another folder")
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, made)
    return made


def _batches(recipe: Recipe, skipped: Skipped) -> tuple[list[list[Row]], list[list[Row]], list[Source]]:
    """Read the data and draw all batches: those that are held out, those that are trained on, and what of."""
    sources = _sources(recipe, skipped)
    check_apart(sources, map(Path, (*recipe.apart, *((recipe.dev.path,) if recipe.dev else ()))))
    held: list[Source] = []
    if recipe.held_out:
        held = [replace(source, examples=source.examples[::HELD]) for source in sources]
        for source in sources:
            del source.examples[::HELD]
    mixers = (Mixer(some, recipe.mixing, recipe.seed, cropping=recipe.cropping) for some in (held, sources) if some)
    counts = (recipe.held_out, recipe.optimizing.steps) if held else (recipe.optimizing.steps,)
    drawn = [[mixer.batch() for _ in range(count)] for mixer, count in zip(mixers, counts, strict=True)]
    return (drawn[0] if held else []), drawn[-1], sources


def _begun(
    recipe: Recipe, how: Projection, sources: Sequence[Source], output: Path, progress: Progress
) -> NDArray[np.float32]:
    """Return where a new projection begins: where it began when a training was stopped."""
    path = output / BEGUN
    if not path.exists():
        with progress("projection", None) as advance:
            drawn = draw(sources, how, recipe.seed)
            partial = path.with_suffix(".partial")
            write_array(partial, fit(load_base(recipe), drawn, how, lambda _: advance(1, "")))
            partial.replace(path)
    matrix: NDArray[np.float32] = np.load(path)
    return matrix


def _sources(recipe: Recipe, skipped: Skipped) -> list[Source]:
    """Read every file once, however many ``[[data]]`` take some of it.

    Raises:
        UsageError: one of them takes nothing.
    """
    takers: dict[tuple[str, str], list[frozenset[str]]] = {}
    for data in recipe.data:
        takers.setdefault((data.path, data.kind), []).append(frozenset(data.leave_out))
    read = {
        (path, kind): read_sources(Path(path), skipped, leave_out=frozenset.intersection(*left), kind=kind)
        for (path, kind), left in takers.items()
    }
    sources, longest = [], recipe.mixing.longest
    for data in recipe.data:
        taken = [source for source in read[data.path, data.kind] if source.origin not in data.leave_out]
        if not taken:
            raise UsageError(f"{data.path} has nothing but what is left out: shorten leave_out, or drop this [[data]]")
        own = [replace(source, weight=data.weight, examples=[*source.examples]) for source in taken]
        sources += [without_long(source, longest, skipped) for source in own] if longest else own
    return sources


def _ranking(recipe: Recipe, loss: JointLoss) -> list[Ranking] | None:
    if recipe.dev is None:
        return None
    how = recipe.optimizing
    return [Ranking(recipe.dev, loss, seed=recipe.seed, tokens=how.tokens, bf16=how.bf16)]


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


def _callbacks(trainer: Any, advance: Callable[[int, str], None], patience: int) -> None:  # noqa: ANN401
    """Put our own progress in the place of what prints to standard output."""
    from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
            logs = state.log_history[-1] if state.log_history else {}
            told = [f"{name} {logs[name]:.3f}" for name in ("loss", *TOLD) if name in logs]
            advance(1, ", ".join(told))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ANN401
            told = [logs[name] for name in ("loss", "grad_norm", "eval_loss") if name in (logs or {})]
            if not all(math.isfinite(float(value)) for value in told):
                raise UsageError(
                    f"the loss is no number any more at step {state.global_step}: lower the learning_rate, or raise "
                    "the temperature; the checkpoint before is kept"
                )

    for kind in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(kind)
    trainer.add_callback(Watch())
    if patience:
        trainer.add_callback(EarlyStoppingCallback(patience))


def _arguments(recipe: Recipe, output: Path) -> Any:  # noqa: ANN401
    from sentence_transformers import SentenceTransformerTrainingArguments

    how, evaluates = recipe.optimizing, bool(recipe.held_out or recipe.dev)
    return SentenceTransformerTrainingArguments(
        output_dir=str(output),
        num_train_epochs=1,
        per_device_train_batch_size=recipe.mixing.rows,
        per_device_eval_batch_size=recipe.mixing.rows,
        learning_rate=how.learning_rate,
        learning_rate_mapping={r"^(model\.)?[1-9]\d*\.": how.projection_rate},
        lr_scheduler_type="cosine",
        warmup_steps=how.warmup,
        adam_beta2=0.98,  # some 50 steps: of 1,000, as by default, a training of hundreds would not see the end
        max_grad_norm=1.0,
        bf16=how.bf16,
        seed=recipe.seed,
        use_cpu=not torch.cuda.is_available(),
        batch_sampler=lambda dataset, **_: InOrder(dataset),  # type: ignore[arg-type]
        eval_strategy="steps" if evaluates else "no",
        eval_on_start=evaluates,
        eval_steps=how.save_every,
        save_steps=how.save_every,
        save_total_limit=2,
        load_best_model_at_end=bool(how.patience),
        metric_for_best_model=METRIC if recipe.dev else "loss",
        greater_is_better=bool(recipe.dev),
        logging_steps=10,
        report_to=["tensorboard"] if find_spec("tensorboard") else [],
        dataloader_num_workers=0,
        remove_unused_columns=False,
    )


def _write_log(path: Path, history: Sequence[dict[str, Any]]) -> None:
    names = ["step", "loss", "grad_norm", "learning_rate", *TOLD, f"eval_dense_{METRIC}", f"eval_late_{METRIC}"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(entry for entry in history if entry.keys() & {"loss", *TOLD})


def save(model: Any, output: Path, recipe: Recipe) -> None:  # noqa: ANN401
    """Write what was learned alone, and the whole model."""
    write_learned(model, output / "adapter")
    backbone = model[0].model
    of_language = recipe.language and backbone.config.model_type != "xmod"
    if of_language:
        _write_language(backbone, output / "model" / FOLDER / recipe.language, recipe.optimizing.lora_rank)
    if recipe.optimizing.lora_rank:
        take_adapters_out(backbone, merge=not of_language)
    model.save_pretrained(str(output / "model"))


def _write_language(backbone: Any, folder: Path, rank: int) -> None:  # noqa: ANN401
    """Write a LoRA adapter as PEFT does."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    lora(rank).save_pretrained(str(folder))
    weights = {f"base_model.model.{k}": v.contiguous() for k, v in get_peft_model_state_dict(backbone).items()}
    save_file(weights, folder / "adapter_model.safetensors")
