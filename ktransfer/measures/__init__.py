"""Numbers read off models.

- `evaluation`: what is measured of a run besides its test accuracy.
- `transferability`, `similarity`: what to try, what moved.
- `fisher`, `solvers`: what a weight matters, minima without training.
"""
