"""The child process of a rerun. Its plan is in `lightning_dtool.rerun`.

`child` is the program that starts there, `trainer_patch` redirects what a Trainer writes, and `callback` starts a fit
in the recorded state and stops it at the recorded checkpoint. That fit is found by `recognition`, the checkpoint by
`progress` and `likeness`. `class_recall` evaluates the result.
Nothing is imported here, because these modules depend on the time of each import.
"""
