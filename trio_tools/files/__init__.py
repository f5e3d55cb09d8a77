"""Files under the configured roots: opened safely, read in chunks, hashed, compressed, iterated.

Everything here is a plain function for a trio worker thread (`run_in_thread`): it may block, it
holds one chunk at a time, and it ends within one chunk of a cancel.
"""
