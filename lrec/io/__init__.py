"""Files and messages: atomic writing, strict reading, locks, hashes, and errors as one line. Knows no images."""
