"""One file per format of annotated images."""
