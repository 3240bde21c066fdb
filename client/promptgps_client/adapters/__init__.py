"""Adapters to trainers, one module each; a trainer is imported by its own module alone."""
