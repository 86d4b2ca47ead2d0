"""CTC over the LLM's vocabulary: its labels, its start from a recogniser's head, and pre-training an encoder."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from blspkd.bin import train
from blspkd.errors import ModelError
from blspkd.models.token_counter import TokenCounter, frames_needed
from blspkd.training.terms.encoder_ctc import start_from_head
from blspkd.training.terms.term import Step


def term_of(objective, batch):
    model = objective({"encoder_ctc": {}, "quantity": {"weight": 0}}, train_encoder=True).eval()
    step = Step(model.speech_llm, batch)
    return model.terms["encoder_ctc"], step


def test_every_token_of_the_vocabulary_is_a_class(objective, batch_of):
    batch = batch_of(0, 1, 2)
    term, step = term_of(objective, batch)
    frames, lengths = step.frames
    log_probabilities = (frames @ term.head.weight.T + term.head.bias).log_softmax(-1)
    assert log_probabilities.shape[-1] == 1 + len(step.model.embedding_table) == 401
    wanted = 0.0
    for row, n, example in zip(log_probabilities, lengths, batch.examples, strict=True):
        labels = torch.from_numpy(example.input).long() + 1
        loss = torch.nn.functional.ctc_loss(row[:n, None], labels[None], n[None], torch.tensor([len(labels)]),
                                            reduction="sum")
        wanted += loss.item() / len(labels)
    found = term(step)
    assert found.loss.item() == pytest.approx(wanted, rel=1e-4) and found.details[0] == 0


def test_a_text_too_long_for_its_frames_gives_no_loss_and_is_counted(objective, batch_of):
    _, step = term_of(objective, batch_of(0, 1))
    n = int(step.frames[1][0])
    for ids, too_long in (([*range(5, 5 + n)], 0), ([*range(5, 6 + n)], 1), ([5, 5, *range(6, 4 + n)], 1)):
        term, step = term_of(objective, batch_of(0, inputs=[ids]))
        found = term(step)
        found.loss.backward()
        assert found.details[0] == too_long and (found.loss.item() == 0) == too_long
        assert bool(term.head.weight.grad.any()) != too_long
    mixed, alone = (term_of(objective, batch_of(*indices, inputs=texts)) for indices, texts in (
        ((0, 1), [[*range(5, 6 + n)]]), ((1,), None)))
    values = [term(step) for term, step in (mixed, alone)]
    assert values[0].loss.item() == pytest.approx(values[1].loss.item(), rel=1e-5)
    assert [value.details[0].item() for value in values] == [1, 0]


def test_frames_needed_are_labels_and_the_blanks_between_equal_ones():
    texts = [np.array(text, dtype=np.int32) for text in ([1], [1, 1], [1, 2, 2, 2], [3, 1, 3])]
    assert frames_needed(texts).tolist() == [1, 3, 6, 3]


def head_file(path, tokens=(6, 2, 9), width=4):
    torch.manual_seed(3)
    head = {"weight": torch.randn(1 + len(tokens), width), "bias": torch.randn(1 + len(tokens))}
    save_file(head, path, metadata={"tokens": json.dumps(tokens)})
    return head


def test_a_recogniser_s_head_says_the_same_of_the_llm_s_tokens(tmp_path):
    theirs, head = head_file(tmp_path / "head.safetensors"), TokenCounter(4, 12)
    start_from_head(head, tmp_path / "head.safetensors")
    frames = torch.randn(2, 5, 4)
    logits, wanted = head(frames), frames @ theirs["weight"].T + theirs["bias"]
    torch.testing.assert_close(logits[..., [0, 7, 3, 10]], wanted)  # blank, then 1 + token
    others = [i for i in range(13) if i not in (0, 7, 3, 10)]
    assert (logits[..., others] == theirs["bias"].min()).all() and head.weight.requires_grad


@pytest.mark.parametrize("tokens, width, message", [
    ((6, 12), 4, "has 2 tokens up to 12 and frames of 4; the LLM has 12 tokens"),
    ((6, 2), 5, "frames of 5; the LLM has 12 tokens, and the encoder's frames are of 4"),
    (None, 4, "is no CTC head over the LLM's tokens"), ("missing", 4, "is no CTC head over the LLM's tokens"),
])
def test_a_head_of_something_else_is_refused(tmp_path, tokens, width, message):
    path = tmp_path / "head.safetensors"
    if tokens is None:
        save_file({"weight": torch.zeros(3, 4)}, path)
    elif tokens != "missing":
        head_file(path, tokens, width)
    with pytest.raises(ModelError) as error:
        start_from_head(TokenCounter(4, 12), path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_it_pre_trains_the_encoder_with_which_a_training_goes_on(data_dir, tiny_llm, tiny_encoder, tmp_path):
    """`align:` with CTC and optimal transport on frames: the LLM does not run, the adapter stays as it was drawn."""
    head_file(tmp_path / "head.safetensors", (6, 2, 9), 24)
    align = {"loss": {"terms": {"encoder_ctc": {"head": str(tmp_path / "head.safetensors")},
                                "ot_align": {"method": "sinkhorn", "speech": "frames", "positions": 1.0}}},
             "training": {"max_steps": 2, "save_steps": 2}}
    options = ["--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
               "--adapter", "conv", "--adapter_options", "{layers: 2, bottleneck: 16}", "--train_encoder", "true",
               "--pad_to_30s", "false", "--attn_implementation", "eager", "--batch_utterances", "4", "--num_workers",
               "0", "--warmup_steps", "0", "--log_steps", "1", "--learning_rate", "1e-2", "--encoder_learning_rate",
               "1e-3", "--w_input", "0", "--w_response", "0", "--w_response_ce", "1"]
    train.main([*options, "--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--save_steps", "1",
                "--align", json.dumps(align)])
    train.main([*options, "--output_dir", str(tmp_path / "base"), "--max_steps", "1", "--save_steps", "1"])
    train.main([*options, "--output_dir", str(tmp_path / "still"), "--max_steps", "1", "--save_steps", "1",
                "--learning_rate", "0", "--encoder_learning_rate", "0"])
    first, then, base, still = (tmp_path / name for name in ("run/align/model", "run/model", "base/model",
                                                             "still/model"))
    moved, kept, alone, start = (load_file(folder / "speech_encoder.safetensors")
                                 for folder in (first, then, base, still))
    name = next(name for name in moved if name.endswith("layers.0.fc1.weight"))
    assert 1e-3 < (moved[name] - start[name]).abs().max() <= 2.1e-3  # two steps of Adam
    assert 0 < (kept[name] - moved[name]).abs().max() <= 1.1e-3 and not torch.equal(kept[name], alone[name])
    drawn, passed = (load_file(folder / "adapter.safetensors") for folder in (still, first))
    assert all(torch.equal(drawn[key], passed[key]) for key in drawn)
    log = json.loads((tmp_path / "run/align/checkpoint-2/trainer_state.json").read_text())["log_history"]
    assert {"encoder_ctc", "encoder_ctc_skipped", "ot_align"} <= log[0].keys() and "response_ce" not in log[0]
    assert {"encoder_ctc.head.weight", "ot_align.projection.weight"} <= load_file(first / "terms.safetensors").keys()
    assert not (then / "terms.safetensors").exists()
