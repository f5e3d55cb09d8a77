"""The listening sockets: a port, a unix socket, or sockets that a supervisor opened.

Code that binds an address, or accepts from one that several workers share, belongs here.

unix_socket  a socket in the file system
handed       sockets that a supervisor has opened
listeners    the bound address, and how workers share it
"""
