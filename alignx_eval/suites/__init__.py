"""Suites: a checkpoint and a corpus in, rows and their per-item statistics out. One module each, one function `run`
each."""
