"""What others read: README.yml, annotations. Each a function of a record."""
