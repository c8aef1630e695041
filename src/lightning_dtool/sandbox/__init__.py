"""What a rerun may write and connect to, enforced by the operating system.

Only the standard library is needed: a rerun is restricted before it imports anything else.
"""
