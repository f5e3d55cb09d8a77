"""An application's functions as tools, with the policy of the built-in ones.

What `tool` makes of a function, and what the function can ask of the server, belongs here. The
tools of the patterns are made with it, as those of any application.

context       what a function knows of its call, and what it can ask of the server
signature     the parameters and the bounds of a function that becomes a tool
answers       what a function returned, as an answer
tool          `tool`: a function becomes a tool
"""
