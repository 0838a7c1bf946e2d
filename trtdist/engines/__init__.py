"""The engine seam: what a worker drives. Standard library here; each engine brings what it needs."""
