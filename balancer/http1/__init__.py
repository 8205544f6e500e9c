"""HTTP/1.1 heads, framing and forwarding rules; pure."""
