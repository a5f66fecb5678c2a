"""Readers of raw data sets: one module per layout, all returning `lrec.datasets.dataset.Dataset`."""
