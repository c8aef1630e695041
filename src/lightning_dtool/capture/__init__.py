"""How facts are observed: one module per question, each a function from Trainer and module to a part of the record."""
