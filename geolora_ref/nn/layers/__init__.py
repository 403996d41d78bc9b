"""Adapters and adapted layers."""
