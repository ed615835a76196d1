"""What `benchmark.py` runs: counting, the ledger of published numbers, latency, comparisons of trainings; and
in `lightening/` the page and the search of `lighten.py`.

Top floor: may import everything; only commands import it, and `curation` what pages share. Each subcommand is
a module with `Config` and `run`; scripts of their own: `overhead.py`, and for `latency.py` `stopwatch.py`.
"""
