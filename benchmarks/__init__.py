"""What `benchmark.py` runs: counting, the ledger of published numbers, latency, comparisons of trainings; and
for `lighten.py` its page and its search (`lighten_page.py`, `lighten_search.py`).

Top floor: may import everything, and only commands import it. Each subcommand is a module with `Config` and
`run`; scripts of their own are `overhead.py`, `grouped.py` and, for `latency.py`, `stopwatch.py`.
"""
