"""Files: whole or not there at all."""
