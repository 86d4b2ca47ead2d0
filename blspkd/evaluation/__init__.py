"""Evaluation: decode test sets, score them, and write the results down."""
