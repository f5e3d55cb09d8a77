"""An application's functions as tools, with the policy of the built-in ones.

Turning a function into a tool with `tool`, and the interface to the server that the function can
use, belongs here. The tools of the patterns are made with it, like those of any application.

context     the call of a function, and its interface to the server
signature   the parameters and the bounds of a function that becomes a tool
answers     the return value of a function, as an answer
tool        `tool`: a function becomes a tool
"""
