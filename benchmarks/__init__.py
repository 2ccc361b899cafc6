"""Measurements: speed, memory and disk of the real thing, as ratios in one run.

Run as modules from the root of the project, `python -m benchmarks.day ...`; what each measures
stands in its docstring, what they share in `harness`. Results worth keeping lie in `results/`,
and `report` writes docs/performance.md from them. Nothing here runs in `make test`.
"""
