"""Trained models mixed by weight -> a trained model.

    python -m blspkd.bin.merge --models exp/first/model exp/second/model --weights .5 .5 --output exp/merged/model

Adapter and speech encoder become weighted means, (P)LoRA the weighted sum of updates, with the sum of ranks. `none` in
the place of a model is the base models as they are, which LoRA and the trained encoder are drawn back to.
"""

import argparse

from blspkd.errors import command


@command
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", metavar="MODEL", nargs="+", required=True,
                        help="folders of trained models (exp/<tag>/model), Hugging Face ids, or one `none`")
    parser.add_argument("--weights", metavar="WEIGHT", nargs="+", type=float, required=True,
                        help="one for each, from 0 to 1; they add up to 1")
    parser.add_argument("--output", metavar="FOLDER", required=True, help="gets the mixture")
    parser.add_argument("--llm", help="the LLM of the trainings, where it is not at its recorded place")
    parser.add_argument("--speech_encoder", help="their speech encoder, likewise")
    options = parser.parse_args(arguments)

    from transformers.utils import logging

    from blspkd.models.merging import merge_models

    logging.set_verbosity_error()
    places = {key: getattr(options, key) for key in ("llm", "speech_encoder") if getattr(options, key)}
    merge_models(options.models, options.weights, options.output, places)
    mixed = " + ".join(f"{weight:g} {name}" for name, weight in zip(options.models, options.weights, strict=True))
    print(f"{options.output}: {mixed}")


if __name__ == "__main__":
    main()
