"""Writing a network for other runtimes, one format a file.

Begin with `run.py` (from weights to verified files) and `formats.py` (the list). `verify.py` compares with
PyTorch. May import all of `models` and `utils`.
"""
