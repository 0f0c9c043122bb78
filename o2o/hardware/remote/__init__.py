"""Serves robots over a socket: protocol, handshake, server, fault injection and real-time simulation."""
