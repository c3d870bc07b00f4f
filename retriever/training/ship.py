"""Make of a training what ships: a LoRA adapter in float16, the projection, and the centroid of every language.

    python -m retriever.training.ship RUN PARALLEL.jsonl.gz data/adapters/multilingual-e5-small --share 0.75

RUN is what ``polyseek train`` wrote from a bundled model. Of what each matrix moved, the given share is taken:
weights between those of a model and of its fine-tuning keep more of what the one knew and have most of what the other
learned (Wortsman et al. 2022). Of that the singular vectors of the largest values are kept, B A with the rank of LoRA.
Biases and layer norms stay as they were. The adapter is as PEFT writes one: PEFT puts it beside the published model as
`retriever.bundled` adds it to the bundled one.

The projection is turned to the principal axes of the token vectors that it gives: all of its dimensions have the same
MaxSim as before, and the first ones more of it. The axes and the centroids are those of up to 200 sentences of each
language, see `retriever.training.calibrate`; the log and what the run was made of are written beside them. Of a run
with ``projection_only`` projections are taken whole and nothing else is written: the adapter that lies in the folder,
and the files of its run, stay.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import NotFoundError, PolyseekError, UsageError
from index.ragged import Ragged
from index.storage import write_array, write_json
from retriever.bundled import (
    ADAPTER,
    DENSE_PROJECTION,
    NAME,
    PROJECTION,
    SENTENCE,
    TOKENS,
    TRAINED,
    bundled_model,
    unpack,
)
from retriever.encoder import Encoder
from retriever.training.calibrate import encode, projection, sample, write_centroids
from retriever.training.model import lora, write_tensors
from retriever.training.projection import find_projection
from retriever.training.train import LOG, MADE_OF

PUBLISHED = "intfloat/multilingual-e5-small"
RANK = 64
MOST = 384  # the shorter side of every matrix


def low_rank(moved: Any, rank: int) -> tuple[Any, Any]:  # noqa: ANN401
    """Return A, (rank, n), and B, (m, rank), with B A nearest to a matrix, (m, n) (Eckart and Young 1936)."""
    import torch

    left, values, right = torch.linalg.svd(moved.float(), full_matrices=False)
    root = values[:rank].sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def ship(run: Path, parallel: Path, folder: Path, *, share: float, rank: int = RANK) -> None:
    """Write the folder, see the module; files are moved there when all of them are made.

    Raises:
        UsageError: a share that is none, or of a projection alone; a rank below 1 or above that of the matrices.
        NotFoundError: no finished training, or no such file.
    """
    import torch

    if not 0 < share <= 1 or not 1 <= rank <= MOST:
        raise UsageError(f"a share is above 0 and at most 1, a rank from 1 to {MOST}, not {share} and {rank}")
    for path in (run / "model", run / LOG, run / MADE_OF, parallel):
        if not path.exists():
            raise NotFoundError(f"{path} does not exist: give what `polyseek train` wrote, and the parallel sentences")
    made = json.loads((run / MADE_OF).read_text(encoding="utf-8"))
    alone = made["recipe"]["optimizing"]["projection_only"]
    if alone and share != 1:
        raise UsageError("a projection that was trained alone is taken whole: leave --share out")
    beside = alone and (folder / ADAPTER).exists()
    if made["recipe"]["base"] != (TRAINED if beside else NAME):
        raise UsageError(f"what was trained from {made['recipe']['base']} is not what {folder} is added to")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made_here:
        scratch = Path(made_here)
        trained = _open(run / "model")
        learned, dense = _projection(trained, TOKENS), _projection(trained, SENTENCE)
        if not alone:
            base = _open(bundled_model(NAME))
            _write_adapter(base, trained, scratch, share, rank)
            learned = torch.lerp(_projection(base, TOKENS), learned, share)
            dense = torch.lerp(_projection(base, SENTENCE), dense, share)
        write_array(scratch / DENSE_PROJECTION, dense.numpy().astype(np.float16))
        adapter = folder if beside else scratch
        _write_projection(learned.numpy(), adapter if (adapter / ADAPTER).exists() else None, parallel, scratch)
        shutil.copyfile(run / LOG, scratch / (f"projection.{LOG}" if alone else LOG))
        shipped = {} if alone else {"shipped": {"share": share, "rank": rank}}
        write_json(scratch / (f"projection.{MADE_OF}" if alone else MADE_OF), {**made, **shipped})
        for name in (LOG, MADE_OF) if not alone else ():  # of projections that were trained for another transformer
            (folder / f"projection.{name}").unlink(missing_ok=True)
        for path in sorted(scratch.iterdir()):
            path.chmod(0o644)  # safetensors leaves them to their owner alone
            path.replace(folder / path.name)


def _projection(model: Any, of: str) -> Any:  # noqa: ANN401
    """Return the matrix of a projection; the identity where there is none."""
    import torch

    place = find_projection(model, of)
    return torch.eye(MOST) if place is None else model[place].linear.weight.data


def _open(folder: Path) -> Any:  # noqa: ANN401
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def _write_adapter(base: Any, trained: Any, folder: Path, share: float, rank: int) -> None:  # noqa: ANN401
    import torch

    adapter = {}
    for name, module in base[0].model.encoder.named_modules():
        if isinstance(module, torch.nn.Linear):
            moved = trained[0].model.encoder.get_submodule(name).weight.data - module.weight.data
            for part, matrix in zip("AB", low_rank(share * moved, rank), strict=True):
                adapter[f"base_model.model.encoder.{name}.lora_{part}.weight"] = matrix.to(torch.float16)
    config = lora(rank)
    config.target_modules = r"encoder\..*\.(query|key|value|dense)"  # not the pooler's, which gives no vector here
    config.base_model_name_or_path = PUBLISHED
    config.save_pretrained(str(folder))
    write_tensors(adapter, folder / ADAPTER)


def _write_projection(learned: NDArray[np.float32], adapter: Path | None, parallel: Path, folder: Path) -> None:
    """Write the projection of tokens, turned, and the centroids of the published model, or of that with an adapter."""
    drawn = sample(parallel)
    languages = np.array([language for language, _ in drawn])
    with tempfile.TemporaryDirectory() as scratch:
        unpack(Path(scratch), learned, adapter, np.load(folder / DENSE_PROJECTION))
        found = encode(Encoder.load(scratch), [text for _, text in drawn])
    if found.dense is None or found.late is None:
        raise ValueError("the model gives both kinds of vectors")
    axes = projection(found.late, languages, len(learned))
    write_array(folder / PROJECTION, axes @ learned)
    write_centroids(folder, found.dense, Ragged(found.late.values @ axes.T, found.late.offsets), languages)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="what polyseek train wrote")
    parser.add_argument("parallel", type=Path, help="parallel sentences, *.jsonl.gz")
    parser.add_argument("folder", type=Path, help="where it goes")
    parser.add_argument("--share", type=float, default=1.0, help="of what the training moved (default 1)")
    parser.add_argument("--rank", type=int, default=RANK, help=f"of the adapter (default {RANK})")
    arguments = parser.parse_args()
    try:
        ship(arguments.run, arguments.parallel, arguments.folder, share=arguments.share, rank=arguments.rank)
    except PolyseekError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
