"""What people read of the results: the ledger, the tables, the figures, and one HTML page that loads nothing."""
