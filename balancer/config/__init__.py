"""The configuration: its model, schema, loader and checks."""
