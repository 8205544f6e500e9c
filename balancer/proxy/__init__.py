"""The data path: clients on one side, backends on the other."""
