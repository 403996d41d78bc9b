"""The guarantees as claims: ``python -m verification`` checks them and writes the report."""
