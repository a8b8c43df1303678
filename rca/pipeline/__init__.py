"""The bridge between DVC, which decides and records, and Snakemake, which schedules.

It knows the names and files of stages, but not what they compute. No other package imports DVC.
"""
