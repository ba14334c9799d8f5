"""Evaluate what multilingual alignment did to a causal language model: where it helped, and at what price."""

__version__ = "0.1.0"
