"""The frozen forward pass, and the cache of what it computed."""
