"""The bridge between DVC, which decides and records, and Snakemake, which schedules.

It knows stage names and files and nothing of what a stage does. No other package imports DVC.
"""
