"""Adapters: parts of a model that are exchanged for every text by its language.

X-MOD (Pfeiffer et al. 2022, "Lifting the Curse of Multilinguality by Pre-training Modular Transformers") has one for
each of its languages in every layer; ColBERT-XM (Louis et al. 2024) is such a model, trained in English alone. Any
other checkpoint may have LoRA adapters of PEFT in folders ``adapters/LANG`` beside its weights. They can be put there
at any time after training, and make it another encoder. A batch has one language, whose adapter is switched on for it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data.records import normalize_language

FOLDER = "adapters"


class Adapters:
    """Those of a model: here none, so that every text is computed alike.

    Attributes:
        names: the adapter of each language that has one.
        default: the adapter of other languages; "" for the model without any.
    """

    def __init__(self, transformer: Any, names: Mapping[str, str] | None = None, default: str = "") -> None:  # noqa: ANN401
        """Take over a ``Transformer`` module."""
        self._transformer = transformer
        self.names, self.default = names or {}, default

    def of(self, languages: Sequence[str]) -> list[str]:
        """Return the adapter of each language."""
        return [self.names.get(language, self.default) for language in languages]

    def use(self, name: str) -> None:
        """Switch an adapter on, and all others off."""

    def computed_by(self, make: Callable[[Any], Any]) -> None:
        """Let the model be computed by what ``make`` makes of it."""
        self._transformer.model = make(self._transformer.model)


class XmodAdapters(Adapters):
    """Those of an ``XmodModel``. Of several for one language, as zh_CN and zh_TW, the first serves."""

    def __init__(self, transformer: Any) -> None:  # noqa: ANN401
        """Take over a ``Transformer`` module."""
        config = transformer.model.config
        languages = list(config.languages)
        default = config.default_language or ("en_XX" if "en_XX" in languages else languages[0])
        super().__init__(transformer, {normalize_language(name): name for name in reversed(languages)}, default)

    def use(self, name: str) -> None:
        """Make a language the model's default."""
        self._transformer.model.set_default_language(name)


class LoraAdapters(Adapters):
    """PEFT's, added to a model in memory. A LoRA adapter that the checkpoint itself has stays on beside each."""

    def __init__(self, transformer: Any, folders: Sequence[Path]) -> None:  # noqa: ANN401
        """Load adapters into the model of a ``Transformer`` module.

        Raises:
            ValueError: a folder that holds no LoRA adapter of this model.
        """
        names = {language_of(folder): f"language-{folder.name}" for folder in folders}
        super().__init__(transformer, names)
        before = _tuned(transformer.model)
        self._shared: list[str] = list(before[0].active_adapters) if before else []
        self._tuner = _load(transformer.model, folders, list(names.values()))
        self._make: Callable[[Any], Any] | None = None
        self._made: dict[str, Any] = {}
        transformer.eval()
        for name in ("", *names.values()):
            self.use(name)

    def use(self, name: str) -> None:
        """Switch an adapter on, or change to the model that has it merged."""
        if self._make is None:
            self._tuner.set_adapter(self._with(name))
            return
        if name not in self._made:
            self._made[name] = self._make(self._merged(name))
        self._transformer.model = self._made[name]

    def computed_by(self, make: Callable[[Any], Any]) -> None:
        """Let models with a merged adapter be computed by what ``make`` makes of them, each when it is asked for."""
        self._make = make
        self.use("")

    def _with(self, name: str) -> list[str]:
        return [*self._shared, name] if name else self._shared

    def _merged(self, name: str) -> Any:  # noqa: ANN401
        """Return a model of its own, which has the embeddings in common where no adapter changes them."""
        embeddings = self._tuner.model.embeddings
        tuner = copy.deepcopy(self._tuner, {} if _tuned(embeddings) else {id(embeddings): embeddings})
        tuner.set_adapter(self._with(name))
        return tuner.merge_and_unload()


def find_adapters(transformer: Any, source: Path) -> Adapters:  # noqa: ANN401
    """Return the adapters of a ``Transformer`` module, loaded.

    Args:
        transformer: the module.
        source: the checkpoint's folder; one of the Hugging Face Hub, which is none, may be X-MOD.

    Raises:
        ValueError: what is in the folder ``adapters`` is of no use, or PEFT is not installed.
    """
    folder = source / FOLDER
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    config = getattr(getattr(transformer, "model", None), "config", None)
    modular = getattr(config, "model_type", "") == "xmod"
    if modular and folders:
        raise ValueError(f"{folder}: X-MOD has adapters of its own, take these away")
    if folders and find_spec("peft") is None:
        raise ValueError(f"{folder}: adapters need PEFT: pip install 'polyseek[train]'")
    if folders:
        return LoraAdapters(transformer, folders)
    return XmodAdapters(transformer) if modular else Adapters(transformer)


def language_of(folder: Path) -> str:
    """Return the language of a folder in ``adapters``.

    Raises:
        ValueError: it is not called by a language's code, or not by the one that Polyseek uses.
    """
    language = normalize_language(folder.name)
    if language != folder.name:
        better = language or "its code, as `sw`"
        raise ValueError(f"{folder} is not called by a language: name it {better}, or take it away")
    return language


def _tuned(model: Any) -> list[Any]:  # noqa: ANN401
    """Return the layers of a model that PEFT has put adapters into."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [part for part in model.modules() if isinstance(part, BaseTunerLayer)]


def _load(model: Any, folders: Sequence[Path], names: Sequence[str]) -> Any:  # noqa: ANN401
    """Add adapters to a model and return PEFT's tuner, which holds it."""
    from peft import LoraConfig, PeftConfig, PeftModel

    whole: Any = None
    for folder, name in zip(folders, names, strict=True):
        missing = [x for x in ("adapter_config.json", "adapter_model.safetensors") if not (folder / x).is_file()]
        if missing:  # PEFT would ask the Hugging Face Hub
            raise ValueError(f"{folder} has no {' and no '.join(missing)}: PEFT's `save_pretrained` writes them")
        try:
            config = PeftConfig.from_pretrained(str(folder))
            if not isinstance(config, LoraConfig):
                raise ValueError(f"an adapter of the kind {config.peft_type}, not LoRA")
            config.inference_mode = True
            with warnings.catch_warnings():  # of an adapter that is there already, and an old name in Transformers
                warnings.simplefilter("ignore")
                whole = whole or PeftModel(model, config, adapter_name=name)
            found = whole.load_adapter(str(folder), adapter_name=name)
        except Exception as error:  # PEFT and safetensors raise bare Exceptions too
            raise ValueError(f"{folder}: {error}") from error
        strange = [*found.unexpected_keys, *(key for key in found.missing_keys if f".{name}." in key)]
        if strange:
            raise ValueError(f"{folder} is no adapter of this model: {strange[0]} is in one of the two alone")
    return whole.base_model
