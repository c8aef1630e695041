"""The results of checks, comparisons, evaluations and reruns: frozen types that need neither torch nor Lightning."""
