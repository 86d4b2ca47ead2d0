"""Options of train_recogniser.py: data, size, augmentation and training of the small recogniser."""

from dataclasses import dataclass


@dataclass
class RecogniserOptions:
    """Data, size, augmentation and training of the recogniser."""

    train_dirs: str = "data/train"  # several separated by spaces; with the synthesiser's `word_times` or without
    repeats: str = ""  # how often an epoch sees the utterances of each of train_dirs, e.g. "1 5"; empty: once
    dev_dirs: str = "data/valid"  # evaluated at the end; several separated by spaces
    tokenizer_dir: str = "exp/base/tokenizer"  # the LLM's: its tokens are the CTC warm-up's targets
    init_dir: str = ""  # a recogniser to go on from, whatever its size; then speech is varied fully from the start
    output_dir: str = "exp/base/recogniser"
    mel_bins: int = 80
    hop_ms: int = 20  # of the log-mel frames; an encoder frame is two of them
    chunk_seconds: int = 6  # the padded regime's length; no utterance may be longer
    width: int = 144
    num_encoder_layers: int = 4
    num_decoder_layers: int = 2
    num_heads: int = 4
    ffn_size: int = 576
    dropout: float = 0.0
    text_pieces: int = 700  # of the recogniser's own byte-level BPE vocabulary
    recogniser_steps: int = 2400
    optimizer: str = "muon"  # or adamw, which takes twice as many steps or more
    early_percents: str = "40 70"  # of the steps: where earlier models are kept; separated by spaces
    learning_rate: float = 3.0e-3
    warmup_steps: int = 200
    batch_size: int = 16
    word_weight: float = 3.0  # of the frame-wise word cross-entropy at the start; 0 from half the steps on
    attention_weight: float = 0.5  # of guiding the decoder's attention to the word; 0 from half the steps on
    attention_floor: float = 0.0  # share of that which stays to the end, for recordings too, whose words CTC aligns
    ctc_weight: float = 1.0
    decoder_weight: float = 1.0
    # share of the decoder's past tokens that are replaced, so that it listens more and guesses less
    token_noise: float = 0.0
    padded_share: float = 0.1  # of the steps that see utterances padded to chunk_seconds, unmasked, half a batch
    max_stretch: float = 0.06  # tempo, as a share
    max_warp: float = 0.04  # of the frequency axis: other vocal tracts
    max_tilt: float = 0.05  # standard deviation of a random smooth equaliser's terms, log10 of power
    max_mask_bins: int = 12  # width of each of the two bands that are masked, of 80 bins
    noise_share: float = 0.2  # of the utterances that get noise on top
    num_beams: int = 1  # of the finished model's `generate`, kept in its generation_config.json
    bf16: bool = True
    threads: int = 1  # of the training; what is left of the cores is for another one beside it
    seed: int = 0
    save_steps: int = 500
    eval_utterances: int = 300  # of each dev directory
