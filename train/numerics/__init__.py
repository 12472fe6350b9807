"""Solvers that know only products, losses and gradients."""
