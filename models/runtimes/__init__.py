"""Running a trained network in whatever form it is: one backend a runtime.

Begin with `opening.py`, which picks the backend for a file; `base.py` says what a backend is, `metadata.py`
what files say of themselves, `config.py` what the commands that run one can be told. May import
`models.yolo`, `models.weights` and `utils`, and `config.py` also `models.exporting`.
"""
