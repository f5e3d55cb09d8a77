"""Several processes that serve one address: their parent, and their cooperation.

Code that involves more than one serving process belongs here. Nothing here handles a request.

siblings   connections and figures that workers pass to each other
liveness   whether all workers answer their parent
child      what a worker receives from its parent
parent     the parent, which starts, monitors and ends the workers
"""
