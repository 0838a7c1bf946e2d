"""What runs an LLM."""
