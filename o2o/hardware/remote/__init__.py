"""Robots behind a socket: protocol, handshake, server, faults to rehearse with, simulations in real time."""
