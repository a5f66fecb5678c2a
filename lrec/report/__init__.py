"""Results for readers: the ledger, the tables, the figures, and one HTML page that loads nothing."""
