"""Sockets that listen and are not opened by host and port.

unix_socket  a socket in the file system
handed       sockets that a supervisor has opened
"""
