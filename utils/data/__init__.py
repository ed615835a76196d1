"""From files to batches, and from sources to frames.

Training and validation: `spec.py` (data yaml) -> `index.py` (one scan of images and labels, kept by
`label_cache.py`; `formats/` has those of other tools) -> `dataset.py` (one batch, a pure function of its
key; `image_cache.py` gives pictures, `augment/` changes them) -> `loader.py` (batches in order, made ahead).
Detection: `sources.py` and `streams.py` give frames. May import single modules of `utils`.
"""
