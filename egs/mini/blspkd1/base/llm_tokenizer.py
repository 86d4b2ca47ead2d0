"""The LLM's tokenizer: SentencePiece pieces inside a Hugging Face fast tokenizer, with a chat template.

Every piece of text that follows the start, a newline or a special token is read as if a space stood before it, so the
first word of a sentence has the same token as that word anywhere else, and `instruction`, newline and `input` can be
tokenised apart or together with the same result. What no piece covers is spelt in bytes: nothing is unknown.
"""

import io

import sentencepiece
from lm_rows import Row
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from blspkd.errors import ConfigError

PAD, UNKNOWN = "<pad>", "<unk>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
N_BYTES = 256
SPACE = "▁"  # how SentencePiece writes a space

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('roles are system, user and assistant, not ' + message['role']) -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""


def build_tokenizer(rows: list[Row], pieces: int) -> PreTrainedTokenizerFast:
    """Learn `pieces` byte-pair-encoding pieces from all texts of `rows`, each text as often as it occurs."""
    texts = [text for row in rows for text in (row.instruction, row.input, row.output)]
    vocabulary, merges = learn_pieces(texts, pieces)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNKNOWN, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("\n ", "\n"),
        decoders.Strip(content=" ", left=1, right=0)])
    special = [PAD, UNKNOWN, SYSTEM, USER, ASSISTANT, END]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken("\n", normalized=False, special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, padding_side="left",
        extra_special_tokens=[SYSTEM, USER, ASSISTANT], chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False)


def learn_pieces(texts: list[str], pieces: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train SentencePiece; return its vocabulary (piece -> id) and the merges, best first, that rebuild its pieces.

    SentencePiece joins the neighbours whose joint piece has the best rank; listing every way to split a piece in two,
    by that rank, makes the Hugging Face BPE model do the same.
    """
    characters = len(set("".join(texts)) | {SPACE})
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=written, model_type="bpe", vocab_size=2 + N_BYTES + pieces,
            byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity",
            remove_extra_whitespaces=False, pad_id=0, pad_piece=PAD, unk_id=1, unk_piece=UNKNOWN, bos_id=-1, eos_id=-1,
            num_threads=1, minloglevel=2)
    except RuntimeError as error:
        raise ConfigError(f"pieces: SentencePiece cannot make {pieces} pieces ({characters} of them characters) of "
                          f"{len(texts)} texts: {error}") from None
    learnt = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    vocabulary = {learnt.id_to_piece(i): i for i in range(len(learnt))}
    merges = []
    for piece, number in vocabulary.items():  # in the order of their ids, i.e. of their ranks
        if number >= 2 + N_BYTES:
            splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
            merges += [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
    return vocabulary, merges
