"""The fast path on another device: the oracle's whole catalogue, trainings compared with the CPU,
and timings.
"""
