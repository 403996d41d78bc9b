"""The judges: the dense step, the criteria, and the number formats that both judge in."""
