"""Measurements of lora-sku beside what it is an alternative to; not part of the wheel.

Each is a command: `python -m benchmarks.memory --help`, `python -m benchmarks.speed --help`.
"""
