"""Checkpoint files, read without running anything in them and written whole or not at all.

Begin with `files.py`. Inside: `archive.py` (the zip), `unpickle.py` (its pickle as inert nodes), `plain.py`
(nodes as plain values), `official.py` (YOLOv5 files). Imports `utils.errors` and `utils.files` only.
"""
