"""The Raft core: pure decisions of one member of a cluster (Ongaro and Ousterhout 2014, extended; Ongaro's thesis)."""
