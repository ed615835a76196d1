"""Which of equal forms is fastest, found by measuring on this machine.

Begin with `tune.py`. `places.py` gives each layer of a network its neighbourhood, in which `calls.py` times
it; `findings.py` is what was found before, here or by us. `models.folding.forms` says what forms there are.
May import all of `models` and `utils`.
"""
