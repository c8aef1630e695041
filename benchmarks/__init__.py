"""What the package costs and what it saves, measured side by side: see README.md in this folder."""
