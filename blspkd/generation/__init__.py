"""Continuation writing (stage 2): the LLM continues the transcripts, in parts that survive a kill."""
