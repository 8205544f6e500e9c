"""The processes: supervisor and workers; composition only."""
