"""Installs blspkd. Lower bounds, no pins; README lists the versions that we test with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "blspkd" / "__init__.py").read_text(encoding="utf-8"))[1]
README = HERE / "README.md"

setup(
    name="blspkd",
    version=VERSION,
    description="Teach a text LLM to listen, by knowledge distillation (BLSP-KD, arXiv 2405.19041)",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["blspkd", "blspkd.*"]),
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        "transformers>=5.0",
        "peft>=0.18",
        "accelerate>=1.1",
        "safetensors>=0.4.3",
        "tokenizers>=0.20",
        "sentencepiece>=0.2",
        "numpy>=1.26",
        "pyyaml>=6.0",
        "soundfile>=0.12.1",  # the first with libsndfile 1.2 in the wheel: mp3
        "soxr>=0.3.7",
        "sacrebleu>=2.4",
        "jiwer>=3.0",
        "tqdm>=4.60",
        "tensorboard>=2.12",
        "matplotlib>=3.7",
    ],
    extras_require={
        "ark": ["kaldiio>=2.18"],  # its licence allows evaluation only: read it before you use it
        "mini": ["espeakng-loader>=0.2.4"],  # espeak-ng itself is GPL; egs/mini runs it as a library
        "test": ["pytest>=8.0", "pytest-xdist>=3.5", "hypothesis>=6.100"],
        "vllm": ["vllm"],
        "deepspeed": ["deepspeed"],
        "demo": ["gradio"],
        "bench": ["torch-cif", "liger-kernel"],  # to compare with, never to run on
    },
)
