"""Losses: pure functions on tensors, no module state."""
