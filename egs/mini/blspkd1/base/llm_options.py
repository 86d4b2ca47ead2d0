"""Options of train_llm.py: size and training of the small LLM."""

from dataclasses import dataclass


@dataclass
class LlmOptions:
    """Data, size and training of the LLM."""

    lm_dir: str = "data/local/lm"  # train.jsonl, dev.jsonl
    tokenizer_dir: str = "exp/base/tokenizer"
    output_dir: str = "exp/base/llm"
    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 4
    ffn_size: int = 512
    max_positions: int = 512
    llm_steps: int = 1200
    optimizer: str = "muon"  # or adamw, which takes twice as many steps or more
    learning_rate: float = 3.0e-3
    warmup_steps: int = 100
    batch_size: int = 32
    input_weight: float = 0.5  # of the loss on the input's tokens; that on the response's is 1
    max_noise: float = 0.8  # embedding noise: standard deviation up to this many times the embeddings' RMS
    bf16: bool = True
    seed: int = 0
    save_steps: int = 250
    eval_rows: int = 600  # dev rows answered at the end
