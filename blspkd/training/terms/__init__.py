"""The terms of the loss beside the distillation, by the names that `loss.terms` gives them.

A new one is a file here with a class (see `Term`) and a line in `TERMS`; the shortest example is token_count.py.
"""

from dataclasses import asdict

from torch import nn

from blspkd.config import LossConfig, ModelConfig
from blspkd.config_file import from_dict, nearest
from blspkd.errors import ConfigError
from blspkd.models.adapters import adapter_gives
from blspkd.models.adapters.adapter import TRAINED_BY_TERMS
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.terms.advantage import Advantage
from blspkd.training.terms.contrast import Contrast
from blspkd.training.terms.embedding import Embedding
from blspkd.training.terms.encoder_ctc import EncoderCtc
from blspkd.training.terms.match import Match
from blspkd.training.terms.ot_align import OtAlign
from blspkd.training.terms.quantity import Quantity
from blspkd.training.terms.term import Term
from blspkd.training.terms.token_count import TokenCount
from blspkd.training.terms.unlikelihood import Unlikelihood

TERMS: dict[str, type[Term]] = {"quantity": Quantity, "embedding": Embedding, "contrast": Contrast,
                               "ctc": TokenCount, "encoder_ctc": EncoderCtc, "ot_align": OtAlign, "match": Match,
                               "unlikelihood": Unlikelihood, "advantage": Advantage}


def term_options(loss: LossConfig, model: ModelConfig) -> dict[str, Term.Options]:
    """Options of the terms of this loss, in the order of TERMS. Raises ConfigError where they do not fit the model.

    Loads no model.
    """
    gives = adapter_gives(model)
    for name in loss.terms:
        if name not in TERMS:
            raise ConfigError(f"loss: terms: there is no '{name}'; {nearest(name, TERMS)}")
    values = {"quantity": {}} | loss.terms if "alpha" in gives else loss.terms
    options = {name: from_dict(TERMS[name].Options, values[name], f"loss: terms: {name}")
               for name in TERMS if name in values}
    options = {name: chosen for name, chosen in options.items() if chosen.weight}
    if loss.w_input and "aligned" not in gives:
        raise ConfigError(f"loss: w_input: needs as many speech tokens as text tokens, which adapter '{model.adapter}' "
                          "does not give; set w_input to 0, or adapter to one that does")
    if model.snap != "none" and "aligned" not in gives:
        raise ConfigError(f"model: snap: {model.snap}: the tokens of adapter '{model.adapter}' stand for no text "
                          "tokens; leave it at none")
    if model.recount and "aligned" not in gives:
        raise ConfigError(f"model: recount: {model.recount}: adapter '{model.adapter}' does not count text tokens; "
                          "leave it at 0")
    if model.recount and model.recount_by == "llm" and model.recount_weight and "ctc" not in gives:
        raise ConfigError(f"model: recount_by: llm: recount_weight {model.recount_weight} is that of a token counter, "
                          f"which adapter '{model.adapter}' with these adapter_options does not have; set it to 0")
    if loss.own_length and "aligned" not in gives:
        raise ConfigError(f"loss: own_length: {loss.own_length}: adapter '{model.adapter}' always has a number of its "
                          "own; leave it at 0")
    needs = {name: TERMS[name].needs_with(chosen) for name, chosen in options.items()}
    for name in options:
        if "llm" in needs[name] and not loss.distils:
            raise ConfigError(f"loss: terms: {name}: needs the LLM, which does not run, for w_input, w_response and "
                              "w_response_ce are all 0; set its weight to 0, or one of theirs to more")
        if "encoder" in needs[name] and not model.train_encoder:
            raise ConfigError(f"loss: terms: {name}: teaches the frames of the speech encoder, which is frozen; set "
                              "model.train_encoder to true, or its weight to 0")
        for missing in sorted(needs[name] - gives - {"llm", "encoder"}):
            raise ConfigError(f"loss: terms: {name}: needs '{missing}', which adapter '{model.adapter}' with these "
                              f"adapter_options does not give; set its weight to 0, or change the adapter")
        if TERMS[name].scored and not loss.w_response_ce:
            raise ConfigError(f"loss: terms: {name}: changes the cross-entropy of the response, and w_response_ce is "
                              "0; set that to 1, or the term's weight to 0")
    if not loss.distils and not any(TERMS[name].teaches(chosen) for name, chosen in options.items()):
        raise ConfigError("loss: w_input, w_response and w_response_ce are all 0, and no term trains what the LLM "
                          "would read; add terms: embedding")
    taught = frozenset().union(*needs.values())
    for head in gives & TRAINED_BY_TERMS - taught:
        raise ConfigError(f"model: adapter '{model.adapter}' has '{head}' with these adapter_options, and no term of "
                          "the loss trains it; add one to loss.terms, or leave it out")
    return options


def make_terms(loss: LossConfig, model: SpeechLlm) -> nn.ModuleDict:
    """The terms of this loss by name. Raises ConfigError."""
    options = term_options(loss, model.config)
    return nn.ModuleDict({name: TERMS[name](chosen, model) for name, chosen in options.items()})


def resolved_terms(loss: LossConfig, model: ModelConfig) -> dict[str, dict]:
    """`loss.terms` with all defaults filled in, and a weight of 0 where a term is left out. Raises ConfigError."""
    left_out = {name: {"weight": 0.0} for name in loss.terms}
    return left_out | {name: asdict(chosen) for name, chosen in term_options(loss, model).items()}
