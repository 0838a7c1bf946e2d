"""Configurations of other programs as topologies; what cannot be carried over is listed, never dropped."""
