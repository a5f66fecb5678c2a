"""Files and messages: written whole or not at all, read strictly, locked; errors as one line. Knows no images."""
