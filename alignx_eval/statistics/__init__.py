"""Paired, clustered statistics over plain arrays: one noun a module, float64, explicit random generators, no model
code."""
