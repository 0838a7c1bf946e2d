"""What is wrong with a topology for TensorRT-LLM although each value by itself is right. Read only for that engine."""
