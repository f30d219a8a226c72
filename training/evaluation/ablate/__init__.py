"""Comparisons of recipes at equal compute: lists of runs from YAML, and tables as in the paper."""
