"""Running a trained network in whatever form it is: one backend a runtime.

Begin with `opening.py`, which picks the backend for a file; `base.py` says what a backend is, `metadata.py`
what files say of themselves, `config.py` what the commands that run one can be told, `machine.py` what it
runs on. May import `models.yolo`, `models.weights` and `utils`; `config.py` loads `models.exporting` where it
is asked for.
"""
