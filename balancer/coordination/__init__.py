"""The replicated state machine: etcd's key space, leases, transactions, watches, locks and elections. Pure."""
