"""Packed data directories: a data directory, its continuations and an LLM's token ids in a few large Arrow files.

    packed.json                     written last: what it was made from, the shards' sizes, prefixes and suffixes
    index.arrow                     a row of numbers per utterance; a training maps it and makes no object of it
    shards/shard-00001-of-00012.arrow   id, text, token ids, duration, audio bytes (0.5 to 1 GB)
    utt2..., word_times, continuation.info.json     copies, for data operations and the prompt

`pack` makes it, `packed_dir` reads it, `shard` and `index` know the files, `made_from` tells whether they still hold.
"""
