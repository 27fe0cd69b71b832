"""Pre-trained networks as frozen feature extractors, one file per provider."""
