"""Exact retrieval metrics and exact search, by counting, at any size."""
