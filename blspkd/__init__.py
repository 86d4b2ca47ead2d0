"""blspkd: teach a text LLM to listen, by knowledge distillation (BLSP-KD, arXiv 2405.19041)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blspkd.models.chat import SpeechLLM as SpeechLLM
    from blspkd.reporting.publish import push_to_hub as push_to_hub

__version__ = "0.1.0"
__all__ = ["SpeechLLM", "push_to_hub"]


def __getattr__(name: str):
    """`from blspkd import SpeechLLM` imports torch, `import blspkd` does not."""
    if name == "SpeechLLM":
        from blspkd.models.chat import SpeechLLM

        return SpeechLLM
    if name == "push_to_hub":
        from blspkd.reporting.publish import push_to_hub

        return push_to_hub
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
