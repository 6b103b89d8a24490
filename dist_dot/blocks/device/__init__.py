"""Rows on a GPU. CuPy is imported in functions only: everything else runs without it, and without a driver."""
