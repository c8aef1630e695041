"""A recorded training, run again in a child process: what differs in there. The plan is in `lightning_dtool.rerun`.

`outputs` keeps what the training writes inside of a scratch folder, `conduct` begins where the recorded training began
and ends it when the recorded checkpoint is there again. Nothing is imported here: when is part of what they do.
"""
