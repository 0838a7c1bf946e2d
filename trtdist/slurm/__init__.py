"""What trtdist says to Slurm and understands of its answers."""
