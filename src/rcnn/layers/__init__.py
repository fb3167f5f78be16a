"""Layers that torch does not have, or has slowly."""
