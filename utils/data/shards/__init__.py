"""Tar shards (the layout of the library webdataset), on disk or behind an address.

`places.py` names shards and the pictures in them, `tar.py` reads headers, `ranges.py` reads bytes from
anywhere, `scan.py` makes the index of a split; `listing.py` is a file beside a shard that spares reading it.
A picture is a range of bytes: nothing is unpacked to disk and nothing is unpickled. May import single modules
of `utils` and `utils.data`. Begin with `scan.py`.
"""
