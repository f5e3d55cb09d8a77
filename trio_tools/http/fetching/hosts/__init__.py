"""The limit of each host: its concurrent requests, and the end of its pauses.

The effect of a status such as 429, or of a slow reply, on later requests to the same host belongs
here.

    throttling        replies that request a pause, and retries
    host              the concurrent requests of one host                no I/O
    host_throttle     the hosts in use, where requests wait
    throttled_client  requests to one host, within its limit
"""
