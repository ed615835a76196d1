"""From files to batches, and from sources to frames.

Training and validation: `spec.py` (data yaml) -> `index.py` (one scan of images and labels) -> `dataset.py`
(one batch, a pure function of its key; `augment/` changes pictures) -> `loader.py` (batches in order, made
ahead). Detection: `sources.py` and `streams.py` give frames. May import single modules of `utils`.
"""
