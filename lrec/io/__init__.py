"""Files and messages: atomic writing, strict reading, locks, hashes and one-line errors. Nothing here reads images."""
