"""Figures of sweeps, attacks and studies."""
