"""A recorded model on other data: predictions, metrics and the dataset that holds them."""
