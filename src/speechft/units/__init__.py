"""Discrete units: clusters of a layer's frames, fitted to speech and given to speech."""

from speechft.units.apply import apply_units as apply_units
from speechft.units.fit import fit_units as fit_units
