"""What `lighten.py` measures, shows and searches: begin with `search.py`; the page of every run is `page.py`.

`kept.py` is what `benchmark.py docs` tells of its runs.
"""
