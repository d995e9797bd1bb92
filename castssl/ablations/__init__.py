"""Ablation studies: a grid over a recipe's flags becomes runs, and the runs a table."""
