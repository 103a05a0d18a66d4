"""Metrics, top-k lists of the whole catalogue, and tests of significance."""
