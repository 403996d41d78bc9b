"""Experiments: questions that measurements answer, where no theorem says what must come out."""
