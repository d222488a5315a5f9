"""Tests of the limits: pure state machines, played with made-up times."""
