"""Evaluation of models: numbers, tables, charts and the report."""
