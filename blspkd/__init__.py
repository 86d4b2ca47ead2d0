"""blspkd: teach a text LLM to listen, by knowledge distillation (BLSP-KD, arXiv 2405.19041)."""

__version__ = "0.1.0"
