"""The campaign: run the cases of all claims, keep the results, hold them against the record."""
