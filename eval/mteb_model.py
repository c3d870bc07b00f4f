"""Polyseek's encoders as models of MTEB (Muennighoff et al. 2023, "MTEB: Massive Text Embedding Benchmark").

    import mteb
    from eval.mteb_model import MtebModel

    mteb.evaluate(MtebModel.load(), mteb.get_tasks(tasks=["Tatoeba"]))

Passages of retrieval tasks are encoded as documents, whole, in windows where they are long; everything else as queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType
from numpy.typing import NDArray

from data.errors import InputError
from retriever.bundled import DEFAULT
from retriever.encoder import Encoder


class MtebModel(AbsEncoder):
    """Sentence vectors of an encoder, compared by cosine."""

    def __init__(self, encoder: Encoder) -> None:
        """Wrap an encoder.

        Raises:
            InputError: it makes no sentence vectors.
        """
        if "dense" not in encoder.dims:
            raise InputError("this encoder makes no sentence vectors, which MTEB compares")
        self._encoder = encoder
        own = encoder.fingerprint
        name = str(own["model"]).strip("/").replace("\\", "/").split("/")[-1]
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"polyseek/{name}",
                "revision": own["weights"],
                "embed_dim": encoder.dims["dense"],
                "max_tokens": own["lengths"]["document"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": True,  # as MTEB calls prompts
            }
        )

    @classmethod
    def load(cls, name: str = DEFAULT, **options: Any) -> MtebModel:  # noqa: ANN401
        """Load an encoder by its name, with the options of :meth:`retriever.encoder.Encoder.load`."""
        return cls(Encoder.load(name, **options))

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[str]]],
        *,
        prompt_type: PromptType | None = None,
        **_: Any,  # noqa: ANN401
    ) -> NDArray[np.float32]:
        """Return unit vectors (n, d) float32.

        Args:
            inputs: batches with their ``text``.
            prompt_type: whether they are queries or documents of a retrieval task; None where there is no such thing.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type is PromptType.document:
            return np.asarray(self._encoder.encode_documents(texts).dense)
        return np.asarray(self._encoder.encode_queries(texts).dense)
