"""From a URI to a verified record and a class."""
