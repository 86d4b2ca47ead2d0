"""Installs blspkd. Lower bounds, no pins: tools/constraints.txt holds the versions that were tested."""

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
    package_data={"blspkd.reporting": ["templates/*"], "blspkd.serve": ["*.html"]},
    entry_points={"console_scripts": ["blspkd = blspkd.bin.blspkd:main"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        "transformers>=5.4",  # before, Whisper's layers return tuples
        "huggingface-hub>=1.3",  # as transformers needs it
        "peft>=0.18",
        "accelerate>=1.10",
        "safetensors>=0.4.3",
        "tokenizers>=0.22",
        "sentencepiece>=0.2",
        "numpy>=1.26.4",
        "pyyaml>=6.0.1",
        "soundfile>=0.13",
        "soxr>=0.3.7",
        "sacrebleu>=2.4",
        "jiwer>=3.0.4",
        "inflect>=7.0",
        "tqdm>=4.66",
        "tensorboard>=2.15",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "psutil>=5.9",
    ],
    extras_require={
        "serve": ["fastapi>=0.115", "uvicorn>=0.34", "h11>=0.14", "prometheus-client>=0.21"],  # `blspkd serve`
        "pack": ["pyarrow>=17"],  # `data_dir pack`, and training from what it makes
        "ark": ["omniio>=0.1.2"],  # `blspkd features`; kaldiio will do, too, but its licence allows evaluation only
        "mini": ["espeakng-loader>=0.2.4"],  # espeak-ng itself is GPL; egs/mini runs it as a library
        "test": ["pytest>=8.0", "pytest-xdist>=3.5", "hypothesis>=6.100", "openai>=1.99", "pyarrow>=17"],
        "page": ["playwright>=1.50", "axe-playwright-python>=0.1.4"],  # tests of the page in Chromium; else skipped
        "pretrained": ["gguf>=0.17"],  # to read LLMs of llama.cpp (tools/pretrained.sh)
        "quantised": ["bitsandbytes>=0.46"],  # PLoRA on an LLM in 4 or 8 bits; its tests are skipped without it
        "deepspeed": ["deepspeed"],
        "bench": ["torch-cif", "liger-kernel"],  # to compare with, never to run on
    },
)
