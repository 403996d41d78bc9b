"""Experiments: questions that measurements answer, with no theorem to hold them against."""
