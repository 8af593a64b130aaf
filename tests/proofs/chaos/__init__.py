"""Faults of every kind on a whole control plane under load, and what must hold all the same."""
