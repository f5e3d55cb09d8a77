"""The limit of each host: how many requests it gets at a time, and when it is asked again.

What a status such as 429 or a slow reply changes for later requests to the same host belongs here.

    throttling        replies that ask for a pause, and when to send again
    host              how many requests one host takes at a time            no I/O
    host_throttle     the hosts in use, where a request waits for its turn
    throttled_client  one request to one host, in its turn
"""
