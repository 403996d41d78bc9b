"""The test cases: spectra, single steps, the catalogue, and sizes that a user chooses."""
