"""The consensus member's I/O: write-ahead log, snapshots, peers, driver, gateway, and the client of all that."""
