"""Where the PyTorch engine was before 1.0."""
