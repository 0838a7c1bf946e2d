"""The parts of `benchmarks/data_plane.py`: each way from an engine to a client as programs that can be measured."""
