"""Instruments of the claims: steppers, trajectories, flows, observed slopes, families of integrators."""
