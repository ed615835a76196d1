"""Exact algebra that turns a trained network into one with less to do; `models.deploy` is the way in."""
