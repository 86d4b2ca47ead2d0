"""A trained model as one of transformers' own: its Auto classes, `generate`, `pipeline` and `transformers serve`.

    from transformers import pipeline
    from blspkd.models.huggingface import register

    register()
    pipe = pipeline("any-to-any", model="exp/train/model")
    pipe([{"role": "user", "content": [{"type": "text", "text": "Translate the following text into German."},
                                       {"type": "audio", "audio": "speech.wav"}]}], return_full_text=False)

transformers has to be told of models that are not its own, once in every process; it would find them by itself only if
they brought code along in their folders (`trust_remote_code`), and ours bring none. So `transformers serve` alone
answers that it does not know the model type `blspkd`. The same command with our models in it is

    python -m blspkd.models.huggingface serve exp/train/model

Its releases differ: early ones serve no model that reads texts and hears (5.4), and their pipelines for sound want
librosa, which ours do not use (5.4 to 5.20).
"""


def register() -> None:
    """Tell transformers of our models: AutoConfig, AutoProcessor, AutoModelForMultimodalLM, pipelines and server."""
    # imported here: whoever wants `write_config` must not wait for the rest, and `SpeechLlm` does
    from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    from blspkd.models.huggingface.config import BlspkdConfig
    from blspkd.models.huggingface.model import BlspkdForConditionalGeneration
    from blspkd.models.huggingface.processor import BlspkdProcessor

    AutoConfig.register(BlspkdConfig.model_type, BlspkdConfig, exist_ok=True)
    AutoProcessor.register(BlspkdConfig, BlspkdProcessor, exist_ok=True)
    AutoModelForMultimodalLM.register(BlspkdConfig, BlspkdForConditionalGeneration, exist_ok=True)
    # the server asks this table of names, and no class, which models can hear
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[BlspkdConfig.model_type] = BlspkdForConditionalGeneration.__name__
