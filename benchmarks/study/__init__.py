"""Studies of `benchmark.py train`: networks x box losses x insertions x seeds, over any number of machines.

`candidates.py` says what is compared and who goes on after a rung, `work.py` trains, `pairs.py` compares,
`page.py` writes. Imports what benchmarks may; begin with `work.py: run`.
"""
