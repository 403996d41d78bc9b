"""Defects that layers and optimizers of this field had, small models to show them on, and the
identities that reject them.
"""
