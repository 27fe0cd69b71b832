"""Local pages: labels are reviewed, and images tried."""
