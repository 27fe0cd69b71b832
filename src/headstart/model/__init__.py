"""The classifier: a backbone, a new head, and how both are trained and stored."""
