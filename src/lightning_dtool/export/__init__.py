"""README.yml, annotations and text for a terminal, each a function of a record or a result."""
