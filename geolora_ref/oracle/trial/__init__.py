"""A trial of a backend: convert its arrays, call it, watch its manners, choose its cases."""
