"""What `benchmark.py` runs: counting, the ledger of published numbers, latency, comparisons of trainings.

Top floor: may import everything, and nothing imports it. Each subcommand is a module with `Config` and `run`;
scripts of their own are `overhead.py`, `grouped.py` and, for `latency.py`, `stopwatch.py`.
"""
