"""Several processes that serve one address: their parent, and what they do for each other.

Code that knows of more than one serving process belongs here. Nothing here handles a request.

siblings   connections and figures that one worker hands to another
liveness   whether all workers answer their parent
child      what a worker has of its parent
parent     the parent, which starts, watches and ends them
"""
