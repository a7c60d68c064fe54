"""Shampoo and its kin: directions from means of outer products."""
