"""Detectors trained with other programs, turned into ours."""
