"""Data sets of other Python libraries, by what they look like; none of the libraries is imported."""
