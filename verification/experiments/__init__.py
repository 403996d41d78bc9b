"""Campaigns: tables of configurations, runs as rows, and the evidence of the documentation."""
