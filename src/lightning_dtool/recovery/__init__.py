"""What unfinished operations have left behind: told, finished or removed."""
