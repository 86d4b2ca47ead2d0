"""vLLM in an interpreter of its own: what serving and stage 2 share."""
