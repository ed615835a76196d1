"""`benchmark.py gpu`: one prepared check of everything on a GPU.

`command.py` has the flags and writes the page, `checks.py` says what is checked, `measuring.py` has clocks.
"""
