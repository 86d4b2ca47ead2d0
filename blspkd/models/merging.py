"""Trained models mixed by weight: M_r = a M_1 + (1 - a) M_0 (Core-Cocktail of Fun-Audio-Chat, arXiv 2512.20156).

Adapter and speech encoder are weighted means of parameters. LoRA is mixed as the update that it makes to a weight,

    dW = sum_i a_i s_i B_i A_i = s [a_1 s_1 / s B_1, a_2 s_2 / s B_2, ...] [A_1; A_2; ...],   s_i = alpha_i / r_i

so the ranks add up. The means of all B and of all A would bring products B_1 A_2 that nobody has trained.

A model may be `none`: the base models as they are, without an update of the LLM. It has no adapter, so that the others'
adapters are mixed in proportion to their weights. No LLM is loaded.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from blspkd.config import ModelConfig, PromptConfig
from blspkd.errors import ConfigError, ModelError
from blspkd.models.adapters import ADAPTERS, adapter_options
from blspkd.models.base_models import model_identity
from blspkd.models.base_records import BASES, BaseModel, BaseModels
from blspkd.models.model_folder import (
    SpeechLlmConfig,
    check_replaceable,
    find_folder,
    locate_base_model,
    locate_base_models,
    read_config,
)
from blspkd.models.speech_encoder import SpeechEncoder
from blspkd.models.trained_folder import ADAPTER, ENCODER, PLORA, write_trained

NONE = "none"  # in the place of a model: the base models as they are
PLORA_WEIGHTS = "adapter_model.safetensors"  # in the folder PLORA, as peft names it


@dataclass(frozen=True, eq=False)
class Ingredient:
    """A trained model and its weight in the mixture."""

    name: str
    folder: Path
    config: ModelConfig  # its base models where they are now
    prompt: PromptConfig
    weight: float

    def __str__(self) -> str:
        return f"{self.name} (adapter {self.config.adapter} between {self.config.speech_encoder} and {self.config.llm})"

    def read(self, file: str) -> dict[str, Tensor]:
        """The tensors of one of its files. Raises ModelError."""
        try:
            return load_file(self.folder / file)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{self.folder / file}: cannot be read ({error}); get the model again") from None


def merge_models(names: Sequence[str], weights: Sequence[float], output: str | Path,
                 base_models: Mapping[str, str] | None = None) -> None:
    """Write the mixture of the trained models `names` (folders, hub ids or one `none`) into the folder `output`.

    Prompt and all options that decide no weight are those of the first model with a weight. A weight of 0 leaves the
    model out, and of weight 1 it is copied: both ends compute what the models themselves compute, bit for bit.
    base_models: see `locate_base_models`.
    Raises ConfigError for weights that make no mean, ModelError for models of different kinds or base models.
    """
    ingredients = _ingredients(list(map(str, names)), weights, base_models)
    output = Path(output)
    if output.resolve() in [ingredient.folder.resolve() for ingredient in ingredients]:
        raise ConfigError(f"{output}: is one of the models to merge; name a new folder")
    check_replaceable(output)
    first = ingredients[0]
    for other in ingredients[1:]:
        if reason := _difference(first, other):
            raise ModelError(f"{first} and {other} cannot be merged: {reason}")
    mixed = [ingredient for ingredient in ingredients if ingredient.weight]
    shares = _shares(ingredients)
    first = next(iter(shares))
    adapter = weighted_mean([ingredient.read(ADAPTER) for ingredient in shares], list(shares.values()))
    scale = sum(share * ingredient.config.embedding_rms for ingredient, share in shares.items())
    config = replace(first.config, embedding_rms=scale, train_encoder=False, plora_rank=0)
    encoder, tuned = {}, [ingredient for ingredient in mixed if ingredient.config.plora_rank]
    trained = [ingredient for ingredient in mixed if ingredient.config.train_encoder]
    if trained:
        encoder = _mixed_encoder(trained)
        layers = [ingredient.config.train_encoder_layers for ingredient in trained]
        config = replace(config, train_encoder=True, train_encoder_layers=-1 if min(layers) < 0 else max(layers))
    plora = None
    if tuned:
        lora, rank, alpha = mixed_lora([ingredient.read(f"{PLORA}/{PLORA_WEIGHTS}") for ingredient in tuned],
                                       [ingredient.config.plora_alpha for ingredient in tuned],
                                       [ingredient.weight for ingredient in tuned])
        own = tuned[0].config
        config = replace(config, plora_rank=rank, plora_alpha=alpha, plora_dropout=own.plora_dropout,
                         plora_targets=own.plora_targets, plora_positions=own.plora_positions)
        plora = partial(_write_lora, tuned[0].folder / PLORA, lora, rank, alpha)
    write_trained(output, SpeechLlmConfig(config, first.prompt), {ADAPTER: adapter, ENCODER: encoder}, plora)


def weighted_mean(models: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """sum_i weights_i * models_i of tensors with the same names and shapes, in float64, in the types of the first."""
    return {name: torch.stack([weight * model[name].double() for model, weight in zip(models, weights, strict=True)])
            .sum(0).to(like.dtype) for name, like in models[0].items()}


def mixed_lora(models: Sequence[Mapping[str, Tensor]], alphas: Sequence[float], weights: Sequence[float]
               ) -> tuple[dict[str, Tensor], int, float]:
    """LoRA whose update is the weighted sum of updates, with its rank and alpha; see the top of this file.

    models: peft's tensors, A [r_i, in] and B [out, r_i] by name; alphas: of each, so that its scale is alpha_i / r_i.
    """
    ranks = [next(tensor.shape[0] for name, tensor in model.items() if _is_a(name)) for model in models]
    scales = [alpha / rank for alpha, rank in zip(alphas, ranks, strict=True)]
    mixed = {}
    for name in models[0]:
        if _is_a(name):
            mixed[name] = torch.cat([model[name] for model in models])  # [sum of r_i, in]
        else:
            factors = [weight * scale / scales[0] for weight, scale in zip(weights, scales, strict=True)]
            mixed[name] = torch.cat([(factor * model[name].double()).to(model[name].dtype)
                                     for factor, model in zip(factors, models, strict=True)], 1)  # [out, sum of r_i]
    return mixed, sum(ranks), scales[0] * sum(ranks)


def _ingredients(names: list[str], weights: Sequence[float], base_models: Mapping[str, str] | None
                 ) -> list[Ingredient]:
    """The trained models among `names`. Raises ConfigError, ModelError."""
    if len(names) != len(weights):
        raise ConfigError(f"weights: {len(weights)} for {len(names)} models; give one for each")
    if not all(0 <= weight <= 1 for weight in weights) or abs(math.fsum(weights) - 1) > 1e-6:
        raise ConfigError(f"weights: {' '.join(map(str, weights))} are not numbers from 0 to 1 that add up to 1")
    if names.count(NONE) > 1 or set(names) <= {NONE}:
        raise ConfigError(f"models: {' '.join(names)}: name at least one trained model, and {NONE} at most once")
    ingredients = []
    for name, weight in zip(names, weights, strict=True):
        if name != NONE:
            folder = find_folder(name)
            saved = read_config(folder)
            located = locate_base_models(folder, saved.model, base_models)
            ingredients.append(Ingredient(name, folder, located, saved.prompt, weight))
    return ingredients


def _shares(ingredients: Sequence[Ingredient]) -> dict[Ingredient, float]:
    """Of each model in the adapter, which `none` has no part in: they add up to 1, and are equal where all are 0."""
    total = math.fsum(ingredient.weight for ingredient in ingredients)
    return {ingredient: ingredient.weight / total if total else 1 / len(ingredients)
            for ingredient in ingredients if ingredient.weight or not total}


def _mixed_encoder(trained: Sequence[Ingredient]) -> dict[str, Tensor]:
    """What any of these models trained of the encoder: the weighted mean, of the base's weights for the rest of 1."""
    stored = [ingredient.read(ENCODER) for ingredient in trained]
    names = sorted(set().union(*stored))
    rest = {name: 1 - math.fsum(ingredient.weight for ingredient, tensors in zip(trained, stored, strict=True)
                                if name in tensors) for name in names}
    base = _base_encoder(trained[0].config) if any(share > 1e-6 for share in rest.values()) else {}
    mixed = {}
    for name in names:
        parts = [(ingredient.weight, tensors[name]) for ingredient, tensors in zip(trained, stored, strict=True)
                 if name in tensors]
        if rest[name] > 1e-6:
            parts.append((rest[name], base[name]))
        mixed |= weighted_mean([{name: tensor} for _, tensor in parts], [weight for weight, _ in parts])
    return mixed


def _base_encoder(config: ModelConfig) -> dict[str, Tensor]:
    return SpeechEncoder.from_pretrained(config.speech_encoder, config.pad_to_30s, config.attn_implementation,
                                         torch.float32).state_dict()


def _difference(first: Ingredient, other: Ingredient) -> str:
    """Why two models cannot be mixed, from their configurations and the names and shapes of their tensors; "": nothing.
    """
    for key, what in BASES.items():
        if reason := _other_base(first, other, key):
            return f"the {what} is another one: {reason}"
    mine, theirs = first.config, other.config
    if mine.adapter != theirs.adapter:
        return f"adapter is {mine.adapter} and {theirs.adapter}"
    options = [asdict(adapter_options(config)) for config in (mine, theirs)]
    for key, value in options[0].items():
        if options[1][key] != value and key not in ADAPTERS[mine.adapter].free:
            return f"adapter_options.{key} is {value} and {options[1][key]}"
    if bool(mine.embedding_rms) != bool(theirs.embedding_rms):
        return f"embedding_rms is {mine.embedding_rms} and {theirs.embedding_rms}"
    files = [ADAPTER]
    if mine.plora_rank and theirs.plora_rank:
        if mine.plora_positions != theirs.plora_positions:
            return f"plora_positions is {mine.plora_positions} and {theirs.plora_positions}"
        files.append(f"{PLORA}/{PLORA_WEIGHTS}")
    for file in files:
        shapes = [{name: list(tensor.shape) if file == ADAPTER else _outside(name, tensor)
                   for name, tensor in model.read(file).items()} for model in (first, other)]
        for name in sorted(shapes[0].keys() | shapes[1].keys()):
            if shapes[0].get(name) != shapes[1].get(name):
                return f"{file}: {name} is {shapes[0].get(name, 'missing')} and {shapes[1].get(name, 'missing')}"
    return ""


def _is_a(name: str) -> bool:
    """Whether this tensor of peft's is the factor A [r, in], not B [out, r]."""
    return "lora_A" in name or "lora_embedding_A" in name


def _outside(name: str, factor: Tensor) -> list[int]:
    """The shape of a LoRA factor without its rank, which may differ."""
    return list(factor.shape[1:] if _is_a(name) else factor.shape[:1])


def _other_base(first: Ingredient, other: Ingredient, key: str) -> str:
    """Why the base models `key` of the two are not the same one; "": they are."""
    names = [getattr(model.config, key) for model in (first, other)]
    if names[0] == names[1]:  # each was found to be what its own training used
        return ""
    for model, name in (first, names[1]), (other, names[0]):
        if getattr(BaseModels.read(model.folder), key) != BaseModel():
            try:
                locate_base_model(model.folder, model.config, key, name)
            except ModelError as error:
                return str(error)
            return ""
    return "" if model_identity(names[0]) == model_identity(names[1]) else f"{names[0]} and {names[1]} differ"


def _write_lora(source: Path, tensors: dict[str, Tensor], rank: int, alpha: float, folder: Path) -> None:
    """Write peft's files into `folder`, all but the ranks as in `source`."""
    folder.mkdir()
    if (source / "README.md").is_file():
        shutil.copyfile(source / "README.md", folder / "README.md")
    values = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    text = json.dumps(values | {"r": rank, "lora_alpha": alpha}, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / PLORA_WEIGHTS,
              {"format": "pt"})
