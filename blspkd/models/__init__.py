"""Speech encoder, adapters, PLoRA and the speech LLM."""
