"""How fast the kernels are on a GPU, beside what the card and others can do. `python -m benchmarks.gpu --out FOLDER`.

Every part is a process of its own, so that one that fails or hangs costs its own seconds and nothing else.
"""
