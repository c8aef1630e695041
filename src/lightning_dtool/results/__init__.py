"""What checks and comparisons find: frozen types that need neither torch nor Lightning."""
