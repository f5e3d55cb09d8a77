"""The common part of all batch-like tools.

Running an operation over many items, reporting its progress, paging its outcomes and continuing
it in the background belong here. The arguments and the data of one tool do not.

outcomes     one outcome in an answer and in a progress message
output       all outcomes in a file
pagination   the pages of an operation
progress     progress messages to the caller
answers      the answer of a batch call, and how to continue
background   operations that continue after their call has answered
calls        a call of a batch-like tool: an operation over many items
"""
