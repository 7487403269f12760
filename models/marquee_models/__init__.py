"""Fits Marquee's models on what `marquee export` and `marquee replay` write; see `pipeline` for the order of things.

Features, event weights and metrics are defined in Rust alone: nothing in here computes them a second time.
"""
