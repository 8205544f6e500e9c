"""What a balancer does in its cluster: registered backends, shared checks, cluster-wide changes, duties."""
