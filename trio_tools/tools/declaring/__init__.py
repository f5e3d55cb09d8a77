"""How a tool is declared: its arguments, their schemas, and the lines that describe it.

What clients read of a tool before they call it belongs here, and the check of what they send.

schemas       schemas that every model API takes
naming        the names that schemas and descriptions tell
arguments     the arguments that several tools share; arguments as hosts send them
declaration   what a tool declares: arguments, execution, annotations
"""
