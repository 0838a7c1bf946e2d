"""Launch TensorRT-LLM deployments on Slurm and on one machine, and know when they really serve."""

__all__ = ["__version__"]

__version__ = "0.1.0"
