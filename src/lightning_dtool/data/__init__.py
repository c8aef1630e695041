"""A frozen dtool dataset as the data of a Lightning training, and packing files into one."""
