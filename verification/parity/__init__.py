"""The fast path on another device: the oracle's whole catalogue, trainings beside the CPU, and timings."""
