"""Numbers read off models.

- `evaluation`: what is measured of a run besides its test accuracy.
- `transferability`, `similarity`: what to try, what moved.
- `relationships`: what a target class is among the source's classes.
- `fisher`, `solvers`: what a weight matters, minima without training.
"""
