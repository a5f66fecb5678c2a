"""Presentation of results: the ledger, tables, figures, and a self-contained HTML page."""
