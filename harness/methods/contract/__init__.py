"""The contract of a method, checked on two-layer random models: ``harness check-method``."""
