"""Programs that measure tollama. Each runs from the checkout: ``python -m benchmarks.http``."""
