"""Measurements against named peers, in the same run; none of them is a test."""
