"""The child process of a rerun; the plan that it follows is in `lightning_dtool.rerun`.

`child` is the program that starts there, `outputs` keeps what the training writes inside a scratch folder, `recall`
restores what the record tells, and `conduct` starts at the recorded state and stops at the recorded checkpoint.
Nothing is imported here: the time of each import is part of what these modules do.
"""
